"""Benchmark of `training.loop.train` against the plain tutorial loop: one epoch of `mnist-mlp`.

The plain loop uses torchvision's MNIST with ToTensor and Normalize(0.5, 0.5), a DataLoader of
batches of 32, Adam 1e-3 and cross-entropy. Both loops train the same network in the tutorial
preset, on the same 55,000 rows and threads, alternately in one run. The time of `train` includes
its validation. The exit status is 1 if `train` is less than three times as fast, or if the mean
accuracies on the test split differ by more than the accuracies over the seeds of either loop.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from training.datasets import DataError, Dataset, load
from training.loop import train, validate
from training.recipes import RECIPES

RECIPE = RECIPES["mnist-mlp"]
CPU = torch.device("cpu")
MIN_SPEEDUP = 3.0

Run = tuple[float, float]
"""Seconds per epoch, and accuracy on the test split."""


def fitserve(data: Dataset, epochs: int, seed: int) -> Run:
    """Train with the loop of `training.loop`."""
    hyperparameters = RECIPE.hyperparameters("tutorial").override({"epochs": epochs, "seed": seed})
    torch.manual_seed(seed)
    network = RECIPE.build(hyperparameters, data)
    history = train(network, data, hyperparameters, device=CPU, progress=False)
    return history.seconds / epochs, validate(network, data.test, data.task)[1]


def tutorial(data: Dataset, data_dir: Path, epochs: int, seed: int) -> Run:
    """Train with the loop of the tutorial."""
    pixels = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    rows = MNIST(str(data_dir), train=True, transform=pixels)
    rows.data, rows.targets = data.train.inputs, data.train.targets  # without the validation split
    loader = DataLoader(rows, batch_size=32, shuffle=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    started = time.monotonic()
    for _ in range(epochs):
        network.train()
        for images, targets in loader:
            optimizer.zero_grad()
            loss = criterion(network(images), targets)
            loss.backward()
            optimizer.step()
    seconds = time.monotonic() - started

    network.eval()
    correct = 0
    with torch.no_grad():
        for images, targets in DataLoader(
            MNIST(str(data_dir), train=False, transform=pixels), batch_size=1_000
        ):
            correct += int((network(images).argmax(dim=1) == targets).sum())
    return seconds / epochs, correct / len(data.test)


def machine() -> str:
    """Return processor, cores, threads and library versions on one line."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        processor = next(names, processor)
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; Python "
        f"{platform.python_version()}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}"
    )


def value_range(values: Sequence[float]) -> float:
    """Return the difference of the highest and the lowest value."""
    return max(values) - min(values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 0 if both bounds hold, 1 if one does not, 2 without MNIST."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both loops (default: 3)")
    parser.add_argument(
        "--seeds", type=int, default=3, help="seeds for the accuracies (default: 3)"
    )
    parser.add_argument("--epochs", type=int, default=1, help="epochs of each run (default: 1)")
    parser.add_argument("--threads", type=int, help="CPU threads of both loops (default: torch's)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("FITSERVE_DATA_DIR", "data")),
        help="the folder that holds MNIST/raw (default: FITSERVE_DATA_DIR, or data)",
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.epochs < 1 or options.seeds < 2:
        parser.error("--rounds and --epochs must be 1 or more, and --seeds 2 or more")
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        data = load("mnist", options.data_dir)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    print(machine())
    batch_size = RECIPE.hyperparameters("tutorial").batch_size
    print(
        f"{len(data.train):,} rows an epoch in batches of {batch_size}, "
        f"{options.epochs} epochs a run; accuracy on {len(data.test):,} test samples\n"
    )
    fitserve(data, 1, 0)  # untimed: the first run of a process also imports and allocates
    print("round  seed  fitserve           plain loop")
    ours, plain = [], []
    for number in range(max(options.rounds, options.seeds)):
        seed = number % options.seeds
        ours.append(fitserve(data, options.epochs, seed))
        plain.append(tutorial(data, options.data_dir, options.epochs, seed))
        (a, accuracy_a), (b, accuracy_b) = ours[-1], plain[-1]
        print(
            f"{number + 1:5}  {seed:4}  {a:6.2f} s  {accuracy_a:.2%}  {b:6.2f} s  {accuracy_b:.2%}"
        )

    print()
    for name, runs in (("fitserve", ours), ("plain loop", plain)):
        seconds, accuracy = [list(values) for values in zip(*runs, strict=True)]
        accuracy = accuracy[: options.seeds]
        print(
            f"{name:10}  {statistics.median(seconds):6.2f} s an epoch "
            f"({min(seconds):.2f} to {max(seconds):.2f}), accuracy "
            f"{statistics.fmean(accuracy):.2%} ({min(accuracy):.2%} to {max(accuracy):.2%})"
        )
    ratio = statistics.median(b for b, _ in plain) / statistics.median(a for a, _ in ours)
    first, second = ([accuracy for _, accuracy in runs[: options.seeds]] for runs in (ours, plain))
    difference = abs(statistics.fmean(first) - statistics.fmean(second))
    bound = max(value_range(first), value_range(second))
    fast, equal = ratio >= MIN_SPEEDUP, difference <= bound
    print(f"\nspeedup {ratio:.2f}: target {MIN_SPEEDUP:g} {'met' if fast else 'missed'}")
    print(
        f"mean accuracies differ by {difference:.2%}, {'' if equal else 'not '}within the "
        f"{bound:.2%} between seeds"
    )
    return 0 if fast and equal else 1


if __name__ == "__main__":
    sys.exit(main())
