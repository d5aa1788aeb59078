"""How long a network takes from the user to its first answer: `python -m benchmarks.adding`.

Two networks of torchvision with random weights are added by `fitserve add`, in turns. Then the path
of a newcomer: a script with a trained module that ends with `fitserve.save`, `fitserve serve`, and
the first answer over HTTP. Each time includes the start of Python and the imports.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import httpx

NETWORKS = ("resnet50", "vit_b_16")
WEIGHTS = """
import sys, torch, torchvision
torch.manual_seed(0)
torch.save(getattr(torchvision.models, sys.argv[1])().state_dict(), sys.argv[2])
"""
SCRIPT = """
import torch
from torch import nn
network = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
x = torch.randn(16, 4)

import fitserve
fitserve.save("iris-net", network, sample=x, labels=list("abc"), repository="mine")
"""
ROWS = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
PORT = 23_117
PATIENCE = 120
"""Seconds until a server must answer."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args(arguments).rounds
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        steps: dict[str, Callable[[], None]] = {}
        for name in NETWORKS:
            weights = place / f"{name}.pth"
            run([sys.executable, "-c", WEIGHTS, name, str(weights)], place)
            steps[f"add {name}"] = partial(add, name, weights, place)
        steps["from a script to the first answer"] = partial(newcomer, place)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                started = time.monotonic()
                step()
                seconds[name].append(time.monotonic() - started)
                print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    for name, values in seconds.items():
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"{name:34}  median {statistics.median(values):5.1f} s ({spread})")


def run(command: Sequence[str], folder: Path) -> None:
    """Run a command in `folder`, to a good end."""
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def add(name: str, weights: Path, folder: Path) -> None:
    """Add a network of torchvision."""
    command = ["add", name, f"torchvision:{name}", "--weights", str(weights)]
    run([sys.executable, "-m", "fitserve", *command, "--repository", "added"], folder)


def newcomer(folder: Path) -> None:
    """Save, serve and ask the network of a script."""
    run([sys.executable, "-c", SCRIPT], folder)
    command = [sys.executable, "-m", "fitserve", "serve", "--repository", "mine"]
    server = subprocess.Popen(
        [*command, "--port", str(PORT)],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{PORT}/models/iris-net/predict"
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if httpx.post(url, json=ROWS).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise SystemExit("the server did not answer")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
