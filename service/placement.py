"""Where each model computes: which device, and which of its runtimes."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from models import devices
from models.card import MODEL_FILES, Example, RuntimeName
from models.devices import DeviceError
from models.package import ModelPackage, PackageError
from models.runtimes import Arrays, Runtime, brief, open_runtime
from service.telemetry.logs import logger

_LIBRARIES: Mapping[RuntimeName, str] = {"onnx": "onnxruntime", "torchscript": "torch"}
_SMALL = (1, 4, 16, 64, 256)  # rows
_REPEATS = 5
_ENOUGH_SECONDS = 1.0  # a large network is slow enough to be told from one run


class Placement(NamedTuple):
    """An opened, warm runtime, and how long a batch took in each runtime that was tried.

    `seconds` holds, for each runtime tried, the median seconds of a batch by its rows. `small` is
    the same network on one thread, and `small_seconds` are its own: of a batch that takes so short
    that it stays on the event loop, waking other threads takes longer than they save. `unused` are
    the runtimes of the package that cannot use the device, and why.
    """

    runtime: Runtime
    seconds: Mapping[RuntimeName, Mapping[int, float]]
    small: Runtime | None = None
    small_seconds: Mapping[int, float] | None = None
    unused: Mapping[RuntimeName, str] = MappingProxyType({})

    @property
    def most_rows(self) -> int | None:
        """The largest batch that was computed, which memory holds; None where none was timed."""
        return max(self._seconds, default=None)

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
    usable: list[str] = []
    if find_spec("torch") is None:
        problem = "torch is not installed, which brings CUDA's libraries"
    else:
        usable, problem = devices.torch_devices()
    if problem and devices.driver_cuda() is not None:  # without a driver nobody expects a GPU
        where = "on the others" if usable else "on the CPU"
        logger.warning("FITSERVE_DEVICE=auto: models compute %s: %s", where, problem)
    return usable[(worker_index - 1) % len(usable)] if usable else "cpu"


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
    faster over the batch sizes (geometric mean) is taken. A runtime that cannot use the device is
    left out, and so are batches that its memory does not hold. Where the runtime computes a batch
    in less than `inline_seconds`, it is opened once more, for small batches.

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
    seconds: dict[RuntimeName, dict[int, float]] = {}
    unused: dict[RuntimeName, str] = {}

    def open_and_time(name: RuntimeName) -> None:
        if device != "cpu":  # the memory of a GPU may not hold two
            opened.clear()
            devices.free_memory()
        found = open_runtime(package, name, device, threads)
        seconds[name] = _timed(found, package.card.example, sizes)
        opened[name] = found

    for name in candidates:
        try:
            open_and_time(name)
        except DeviceError as error:
            if name == candidates[-1] and not seconds:
                raise PackageError(package.label, MODEL_FILES[name], str(error)) from error
            unused[name] = str(error)  # not the error, which holds the runtime and its memory
            logger.warning("%s is served without %s: %s", package.label, name, unused[name])
    common = set.intersection(*map(set, seconds.values()))  # memory may hold more in one of them
    fastest = min(seconds, key=lambda name: math.prod(seconds[name][rows] for rows in common))
    if fastest not in opened:
        try:
            open_and_time(fastest)
        except DeviceError as error:
            raise PackageError(package.label, MODEL_FILES[fastest], str(error)) from error
    placement = Placement(opened[fastest], seconds, unused=unused)
    if placement.most_rows != sizes[-1]:
        told = "%s: batches of at most %s rows, since the memory of %s holds no more"
        logger.warning(told, package.label, placement.most_rows, device)
    # Torch's threads are those of the whole process.
    if fastest != "onnx" or threads == 1 or not placement.rows_within(inline_seconds):
        return placement
    small = open_runtime(package, fastest, placement.runtime.device, threads=1)
    timed: dict[int, float] = {}
    # Up to the first that takes too long: a session keeps the memory of its largest batch.
    for rows in [fixed] if fixed else sorted({min(size, max_batch_rows) for size in _SMALL}):
        timed[rows] = _seconds(small, package.card.example, rows)
        if timed[rows] > inline_seconds:
            break
    return placement._replace(small=small, small_seconds=timed)


def _timed(runtime: Runtime, example: Example, sizes: Sequence[int]) -> dict[int, float]:
    """The seconds of batches by their rows, up to the largest that the memory holds.

    Args:
        runtime: an opened runtime, which is warm afterwards.
        example: the rows that batches are made of.
        sizes: the rows of the batches, in rising order; smaller ones are tried where the memory
            does not hold one, but none that is smaller than the first.

    Raises:
        DeviceError: the memory does not hold the first; or the network fails on a GPU.
    """
    seconds: dict[int, float] = {}
    for size in sizes:
        rows, least = size, max(seconds, default=sizes[0] - 1) + 1
        while rows >= least and rows not in seconds:
            try:
                seconds[rows] = _seconds(runtime, example, rows)
            except MemoryError as error:
                if rows == sizes[0]:
                    raise DeviceError(str(error)) from error
                rows //= 2
            except Exception as error:
                if runtime.device == "cpu":
                    raise
                failed = f"{runtime.device} fails on a batch of {rows} rows ({brief(error)})"
                raise DeviceError(failed) from error
        if rows < size:
            break
    return seconds


def _seconds(runtime: Runtime, example: Example, rows: int) -> float:
    """Warm `runtime` up with a batch of so many rows, and time it: the median, in seconds.

    A first run compiles and looks for the fastest kernels, and so may the second: runs are made
    until two of them agree.
    """
    inputs: Arrays = {
        name: np.resize(array := tensor.array(), (rows, *array.shape[1:]))
        for name, tensor in example.inputs.items()
    }

    def run() -> float:
        started = time.monotonic()
        runtime(inputs)
        return time.monotonic() - started

    before = run()  # it is never counted
    timings: list[float] = []
    for _ in range(_REPEATS):
        timings.append(run())
        agree = before / 2 < timings[-1] < before * 2
        if agree and sum(timings) > _ENOUGH_SECONDS:
            break
        before = timings[-1]
    return statistics.median(timings)
