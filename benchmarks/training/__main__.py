"""`python -m benchmarks.training`: the comparisons, one after another.

The exit status is 1 if `train` is less fast than a target, or if the average qualities on the test
split differ by more than the qualities over the seeds of either loop. It is 2 if data are missing.
"""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision

from benchmarks.training.flights_loop import FLIGHTS_LOOP
from benchmarks.training.mnist_loop import MNIST_LOOP
from training.datasets import DataError

COMPARISONS = {one.recipe.name: one for one in (MNIST_LOOP, FLIGHTS_LOOP)}


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 0 if all bounds hold, 1 if one does not, 2 without the data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training")
    parser.add_argument("--only", choices=COMPARISONS, help="this recipe (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both loops (default: 3)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds for the qualities (default: 3)")
    parser.add_argument(
        "--epochs", type=int, help="epochs of each run (default: 1 of MNIST, 5 of the flights)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of both loops (default: torch's)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("FITSERVE_DATA_DIR", "data")),
        help="the folder of the data (default: FITSERVE_DATA_DIR, or data)",
    )
    options = parser.parse_args(arguments)
    epochs: int | None = options.epochs
    if options.rounds < 1 or options.seeds < 2 or (epochs is not None and epochs < 1):
        parser.error("--rounds and --epochs must be 1 or more, and --seeds 2 or more")
    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = [COMPARISONS[options.only]] if options.only else list(COMPARISONS.values())
    try:
        data = [one.recipe.load(options.data_dir) for one in chosen]
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    print(machine())
    held = [
        one.run(rows, options.data_dir, epochs or one.epochs, options.rounds, options.seeds)
        for one, rows in zip(chosen, data, strict=True)
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
