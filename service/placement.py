"""Where each model computes: which device, and which of its runtimes."""

import math
import statistics
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal, NamedTuple

import numpy as np

from models.card import MODEL_FILES, Example, RuntimeName
from models.devices import DeviceError
from models.package import ModelPackage, PackageError
from models.runtimes import Arrays, Runtime, open_runtime
from service.telemetry.logs import logger

_LIBRARIES: Mapping[RuntimeName, str] = {"onnx": "onnxruntime", "torchscript": "torch"}
_SMALL = (1, 4, 16, 64, 256)  # rows
_REPEATS = 5
_ENOUGH_SECONDS = 1.0  # a large network is slow enough to be told from one run


class Placement(NamedTuple):
    """An opened, warm runtime, and how long a batch took in each runtime that was tried.

    `seconds` holds, for each runtime tried, the median seconds of a batch by its rows. `small` is
    the same network on one thread, and `small_seconds` are its own: of a batch that takes so short
    that it stays on the event loop, waking other threads takes longer than they save.
    """

    runtime: Runtime
    seconds: Mapping[RuntimeName, Mapping[int, float]]
    small: Runtime | None = None
    small_seconds: Mapping[int, float] | None = None

    def rows_within(self, seconds: float) -> int:
        """The rows that a small batch on the CPU may have to be computed in so many seconds.

        0 on a GPU, and for a network with loops or branches, which may take any time for another
        input.
        """
        if self.runtime.device != "cpu" or not self.runtime.steady:
            return 0
        return _rows_in(seconds, self.small_seconds or self._seconds, otherwise=0)

    def rows_in(self, seconds: float, otherwise: int) -> int:
        """The same of any batch, wherever and whatever it is; `otherwise` where none was timed."""
        return _rows_in(seconds, self._seconds, otherwise)

    def seconds_of(self, rows: int) -> float:
        """How long a batch of so many rows takes; 0 where nothing was timed."""
        sizes, slowest_yet = _slowest_yet(self._seconds)
        return float(np.interp(rows, sizes, slowest_yet)) if sizes else 0.0

    @property
    def _seconds(self) -> Mapping[int, float]:
        return self.seconds.get(self.runtime.name, {})


def _rows_in(seconds: float, timed: Mapping[int, float], otherwise: int) -> int:
    rows, slowest_yet = _slowest_yet(timed)
    if not rows:
        return otherwise
    return int(np.interp(seconds, slowest_yet, rows)) if slowest_yet[0] <= seconds else 0


def _slowest_yet(timed: Mapping[int, float]) -> tuple[list[int], list[float]]:
    """The batch sizes that were timed, and their seconds; between them lie straight lines."""
    rows = sorted(timed)
    return rows, [max(timed[size] for size in rows[: last + 1]) for last in range(len(rows))]


def pick_device(setting: str, worker_index: int) -> str:
    """The device of this worker, `cpu` or `cuda:<index>`.

    Args:
        setting: `auto`, or the device itself.
        worker_index: from 1; workers take the GPUs in turn.
    """
    if setting != "auto":
        return setting
    if find_spec("torch") is None:  # CUDA's libraries come with torch
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{(worker_index - 1) % count}" if count else "cpu"


def place(
    package: ModelPackage,
    runtime: Literal["auto"] | RuntimeName,
    device: str,
    *,
    threads: int,
    max_batch_rows: int,
    inline_seconds: float = 0.0,
) -> Placement:
    """Open `package` on `device`, proved and warmed up at several batch sizes.

    With `auto`, every runtime that the package and the machine have is timed, and the one that is
    faster over the batch sizes (geometric mean) is taken. Where it computes a batch in less than
    `inline_seconds`, it is opened once more, for small batches.

    Raises:
        PackageError: the package cannot be served as asked, with the reason.
    """
    candidates = [
        name
        for name in package.card.runtimes
        if runtime in ("auto", name) and find_spec(_LIBRARIES[name]) is not None
    ]
    if not candidates:
        raise PackageError(
            package.label,
            "card.json",
            f"it has {', '.join(package.card.runtimes)}, of which runtime={runtime} leaves none "
            "that is installed here",
        )
    fixed = package.card.fixed_batch
    sizes = [fixed] if fixed else sorted({1, min(16, max_batch_rows), max_batch_rows})
    opened: dict[RuntimeName, Runtime] = {}
    for name in candidates:
        try:
            opened[name] = open_runtime(package, name, device, threads)
        except DeviceError as error:
            if name == candidates[-1] and not opened:
                raise PackageError(package.label, MODEL_FILES[name], str(error)) from error
            logger.warning("%s is served without %s: %s", package.label, name, error)
    seconds = {
        name: {rows: _seconds(candidate, package.card.example, rows) for rows in sizes}
        for name, candidate in opened.items()
    }
    fastest = min(opened, key=lambda name: math.prod(seconds[name].values()))
    placement = Placement(opened[fastest], seconds)
    # Torch's threads are those of the whole process.
    if fastest != "onnx" or threads == 1 or not placement.rows_within(inline_seconds):
        return placement
    small = open_runtime(package, fastest, device, threads=1)
    timed: dict[int, float] = {}
    # Up to the first that takes too long: a session keeps the memory of its largest batch.
    for rows in [fixed] if fixed else sorted({min(size, max_batch_rows) for size in _SMALL}):
        timed[rows] = _seconds(small, package.card.example, rows)
        if timed[rows] > inline_seconds:
            break
    return placement._replace(small=small, small_seconds=timed)


def _seconds(runtime: Runtime, example: Example, rows: int) -> float:
    """Warm `runtime` up with a batch of so many rows, and time it: the median, in seconds."""
    inputs: Arrays = {
        name: np.resize(array := tensor.array(), (rows, *array.shape[1:]))
        for name, tensor in example.inputs.items()
    }
    timings = []
    for _ in range(1 + _REPEATS):
        started = time.monotonic()
        runtime(inputs)
        timings.append(time.monotonic() - started)
        if sum(timings) > _ENOUGH_SECONDS:
            break
    return statistics.median(timings[1:] or timings)
