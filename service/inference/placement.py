"""The placement of models: the device and the runtime of each."""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from models.package.card import MODEL_FILES, WEIGHTS_FILE, RuntimeName
from models.package.model_package import ModelPackage, PackageError
from models.runtimes import devices
from models.runtimes.arena import limit_arena
from models.runtimes.devices import DeviceError
from models.runtimes.loading import open_runtime
from models.runtimes.runtime import Runtime
from service.inference.timings_cache import TimingsCache, TimingsRecord, timings_key
from service.inference.warm_up import Bounds, Limit, Timings, budget_bytes, repeat, warm_up
from service.memory import available_bytes
from service.telemetry.logs import logger

_LIBRARIES: Mapping[RuntimeName, str] = {
    "onnx": "onnxruntime",
    "torchscript": "torch",
    "pt2": "torch",
}
_MEMORY_SHARE = 8  # a batch takes an eighth of the available memory: other models need some too
_ARENA_SHARE = 4  # for all computations that share the arena of a worker
_CLEARLY_FASTER = 0.9  # of the time of the first runtime; less may be chance
_SMALL_BYTES = 2**18  # of a file; larger networks take too long on one thread to be tried there
_SHORT_SECONDS = 0.0002  # of a batch; torch and more threads have nothing to gain


class NotTimedError(Exception):
    """The network must be timed, as no earlier start has done so."""


class Placement(NamedTuple):
    """An opened, warm runtime, and the duration of batches in each runtime that was timed.

    Attributes:
        runtime: the runtime that computes.
        seconds: the least seconds of a batch by its rows, for each runtime that was timed.
        inline_runtime: the same network on one thread, for batches on the event loop: for such
            short batches, waking other threads takes longer than they save.
        inline_timings: the least seconds of its batches by their rows.
        unused: the runtimes of the package that cannot use the device, each with the reason.
        limit: why no larger batches were timed; None if nothing was.
    """

    runtime: Runtime
    seconds: Mapping[RuntimeName, Mapping[int, float]]
    inline_runtime: Runtime | None = None
    inline_timings: Mapping[int, float] | None = None
    unused: Mapping[RuntimeName, str] = MappingProxyType({})
    limit: Limit | None = None

    @property
    def most_rows(self) -> int | None:
        """The rows of the largest batch that was timed; None if nothing was timed."""
        return max(self.timings, default=None)

    def rows_within(self, seconds: float) -> int:
        """Return the rows that the inline runtime computes within `seconds` on the CPU.

        0 on a GPU, and for a network whose cost depends on the values of the input.
        """
        if self.runtime.device != "cpu" or self.runtime.cost_varies:
            return 0
        return _rows_in(seconds, self.inline_timings or self.timings, otherwise=0)

    def rows_in(self, seconds: float, otherwise: int) -> int:
        """Return the rows of any batch that takes `seconds`; `otherwise` if nothing was timed."""
        return _rows_in(seconds, self.timings, otherwise)

    def seconds_of(self, rows: int, *, inline: bool = False) -> float:
        """Return the duration of a batch of `rows`, in seconds; 0 if nothing was timed.

        Args:
            rows: of the batch.
            inline: whether the inline runtime computes it, if there is one.
        """
        timed = self.inline_timings if inline and self.inline_timings else self.timings
        sizes, slowest_yet = _slowest_yet(timed)
        return float(np.interp(rows, sizes, slowest_yet)) if sizes else 0.0

    @property
    def timings(self) -> Mapping[int, float]:
        """The least seconds of the runtime's batches by their rows; empty if none was timed."""
        return self.seconds.get(self.runtime.name, {})


def _rows_in(seconds: float, timed: Mapping[int, float], otherwise: int) -> int:
    rows, slowest_yet = _slowest_yet(timed)
    if not rows:
        return otherwise
    return int(np.interp(seconds, slowest_yet, rows)) if slowest_yet[0] <= seconds else 0


def _slowest_yet(timed: Mapping[int, float]) -> tuple[list[int], list[float]]:
    """Return the timed batch sizes and their durations, made monotonic for interpolation."""
    rows = sorted(timed)
    return rows, [max(timed[size] for size in rows[: index + 1]) for index in range(len(rows))]


def pick_device(setting: str, worker_index: int) -> str:
    """Return the device of this worker, `cpu` or `cuda:<index>`.

    Args:
        setting: `auto`, or the device itself.
        worker_index: from 1; the workers take the GPUs in rotation.
    """
    if setting != "auto":
        return setting
    if devices.driver_cuda() is None:  # no GPU is expected; torch takes seconds to import
        return "cpu"
    usable: list[str] = []
    if find_spec("torch") is None:
        problem = "torch is not installed (it contains CUDA's libraries)"
    else:
        usable, problem = devices.torch_devices()
    if problem:
        devices_text = f"on {', '.join(usable) or 'the CPU'}"
        logger.warning("FITSERVE_DEVICE=auto: models compute %s: %s", devices_text, problem)
    return usable[(worker_index - 1) % len(usable)] if usable else "cpu"


def limit_memory(runtime: Literal["auto"] | RuntimeName, limit_bytes: int | None) -> None:
    """Limit the memory of computations whose requests decide how much they take, on the CPU.

    Args:
        runtime: that of the settings; only the memory of ONNX Runtime can be limited.
        limit_bytes: of all such computations together; by default a share of the available memory.
    """
    if runtime in ("auto", "onnx") and find_spec(_LIBRARIES["onnx"]) is not None:
        available = available_bytes()
        limit_arena(limit_bytes or round(budget_bytes(available, _ARENA_SHARE)))


def place(
    package: ModelPackage,
    runtime: Literal["auto"] | RuntimeName,
    device: str,
    *,
    threads: int,
    max_batch_rows: int,
    batch_seconds: float = 1.0,
    inline_seconds: float = 0.0,
    cache: TimingsCache | None = None,
    may_time: bool = True,
) -> Placement:
    """Open `package` on `device`, check it, and warm it up with batches of ascending rows.

    With `auto`, every available runtime of the package is timed, and the fastest over the batch
    sizes (geometric mean) is used; the first one, unless another is clearly faster. On a CPU, ONNX
    Runtime computes a network with free dimensions, since its memory can be limited. A runtime that
    cannot use the device is left out, and so are batches that take too much time or memory. If ONNX
    Runtime computes a batch in less than `inline_seconds`, a second one of one thread is opened for
    batches on the event loop. A small network whose batches are all short has only that one.

    Args:
        package: the package. Its files are compared with its card.
        runtime: `auto`, or the only runtime to use.
        device: `cpu` or `cuda:<index>`.
        threads: CPU threads for one batch; 0 leaves the choice to the runtime.
        max_batch_rows: the rows of the largest batch.
        batch_seconds: no batches are run beyond the first that takes longer.
        inline_seconds: the same for batches on the event loop.
        cache: timings of earlier starts. With these, only the fastest runtime is opened, and only
            the smallest and the largest batch are computed.
        may_time: whether the network may be timed if it has to be.

    Raises:
        NotTimedError: the network has to be timed, and `may_time` is false.
        PackageError: the package cannot be served as configured, with the reason.
    """
    candidates = [
        name
        for name in package.card.runtimes
        if runtime in ("auto", name) and find_spec(_LIBRARIES[name]) is not None
    ]
    if "onnx" in candidates and device == "cpu" and package.card.has_free_dimensions:
        candidates = ["onnx"]  # the memory of torch's computations cannot be limited
    if not candidates:
        raise PackageError(
            package.label,
            "card.json",
            f"it has {', '.join(package.card.runtimes)}, of which runtime={runtime} leaves none "
            "that is installed here",
        )
    memory_bytes = budget_bytes(available_bytes(), _MEMORY_SHARE)
    bounds = Bounds(max_batch_rows, batch_seconds, memory_bytes)
    key = ""
    if cache:
        settings = {"threads": threads, "bounds": bounds[:2], "inline_seconds": inline_seconds}
        key = timings_key(package, candidates, device, settings)
        record = cache.read(key, candidates)
        if record and (placement := _recorded(package, record, device, threads, bounds)):
            return placement
    if not may_time:
        raise NotTimedError
    alone = None
    if inline_seconds and threads != 1 and device == "cpu" and "onnx" in candidates:
        short = bounds._replace(seconds=min(inline_seconds, _SHORT_SECONDS))
        alone = _single_threaded(package, short)
    placement, timed = alone or _timed(package, candidates, device, threads, bounds)
    if timed.limit == "memory":
        message = "%s: batches of at most %s rows, since the memory of %s holds no more"
        logger.warning(message, package.label, placement.most_rows, device)
    # Torch has one thread pool per process.
    name: RuntimeName = placement.runtime.name
    if not alone and name == "onnx" and threads != 1 and placement.rows_within(inline_seconds):
        inline_runtime = open_runtime(package, name, placement.runtime.device, threads=1)
        # Up to the first that takes too long: a session keeps the memory of its largest batch.
        inline_bounds = bounds._replace(seconds=inline_seconds)
        inline = warm_up({name: inline_runtime}, package.card, inline_bounds)[name].seconds
        placement = placement._replace(inline_runtime=inline_runtime, inline_timings=inline)
    # At the next start, a device may be usable that is not, or have more memory.
    if cache and not placement.unused and (device == "cpu" or timed.limit != "memory"):
        inline_timings = placement.inline_timings
        record = TimingsRecord(
            runtime=name,
            seconds={
                runtime_name: dict(by_rows) for runtime_name, by_rows in placement.seconds.items()
            },
            limit=timed.limit,
            memory_bytes=timed.memory_bytes,
            budget_bytes=round(memory_bytes),
            inline_seconds=None if inline_timings is None else dict(inline_timings),
            one_thread=alone is not None,
        )
        cache.write(key, record)
    return placement


def _recorded(
    package: ModelPackage, record: TimingsRecord, device: str, threads: int, bounds: Bounds
) -> Placement | None:
    """Return the placement of an earlier start, warm; None if it does not fit any more.

    After an error the network is timed anew, where the error is reported if it lasts.
    """
    if not record.fits(bounds.memory_bytes):
        return None
    try:
        own_threads = 1 if record.one_thread else threads
        runtime = open_runtime(package, record.runtime, device, own_threads)
        placement = Placement(runtime, record.seconds, limit=record.limit)
        fits = repeat(runtime, package.card, record.seconds[record.runtime], bounds.seconds)
        if record.inline_seconds is not None:
            inline_runtime = open_runtime(package, record.runtime, device, threads=1)
            repeat(inline_runtime, package.card, record.inline_seconds, bounds.seconds)
            placement = placement._replace(
                inline_runtime=inline_runtime, inline_timings=record.inline_seconds
            )
    except Exception:  # noqa: BLE001 - as said
        return None
    return placement if fits else None


def _single_threaded(package: ModelPackage, bounds: Bounds) -> tuple[Placement, Timings] | None:
    """Return ONNX Runtime on one thread, and its timings, if all its batches are within the bounds.

    Then every batch is computed on the event loop, and other threads are never used. torch is not
    tried: its calls take longer.
    """
    beside = package.card.files.get(WEIGHTS_FILE)
    graph_bytes = package.card.files[MODEL_FILES["onnx"]].bytes
    if graph_bytes + (beside.bytes if beside else 0) > _SMALL_BYTES:
        return None
    runtime = open_runtime(package, "onnx", "cpu", threads=1)
    if runtime.cost_varies:
        return None
    timed = warm_up({"onnx": runtime}, package.card, bounds)["onnx"]
    is_short = timed.limit == "rows" and max(timed.seconds.values()) <= bounds.seconds
    placement = Placement(runtime, {"onnx": timed.seconds}, limit=timed.limit)
    return (placement, timed) if is_short else None


def _timed(
    package: ModelPackage,
    candidates: Sequence[RuntimeName],
    device: str,
    threads: int,
    bounds: Bounds,
) -> tuple[Placement, Timings]:
    """Open and time the candidates; return the placement with the fastest, and its timings.

    Raises:
        PackageError: no candidate can use the device, or the package is at fault.
    """
    opened: dict[RuntimeName, Runtime] = {}
    timed: dict[RuntimeName, Timings] = {}
    unused: dict[RuntimeName, str] = {}

    def open_and_time(names: Sequence[RuntimeName]) -> None:
        opened.clear()
        if device != "cpu":
            devices.free_memory()
        for name in names:
            try:
                opened[name] = open_runtime(package, name, device, threads)
            except DeviceError as error:
                unused[name] = str(error)  # the error would keep the runtime alive
        for name, timings in warm_up(opened, package.card, bounds).items():
            if timings.failure:
                unused[name] = timings.failure
                del opened[name]
            else:
                timed[name] = timings

    def refusal(name: RuntimeName) -> PackageError:
        error = PackageError(package.label, MODEL_FILES[name], unused[name])
        error.__cause__ = DeviceError(unused[name])
        return error

    if device == "cpu":
        open_and_time(candidates)
    else:
        for name in candidates:  # a GPU may lack the memory for two
            open_and_time([name])
    if not timed:
        raise refusal(candidates[-1])
    for name, reason in unused.items():
        logger.warning("%s is served without %s: %s", package.label, name, reason)
    seconds = {name: timings.seconds for name, timings in timed.items()}
    name = _fastest(seconds)
    if name not in opened:
        open_and_time([name])
        if name not in opened:
            raise refusal(name)
    placement = Placement(opened[name], seconds, unused=unused, limit=timed[name].limit)
    return placement, timed[name]


def _fastest(seconds: Mapping[RuntimeName, Mapping[int, float]]) -> RuntimeName:
    """Return the runtime with the least geometric mean over the batch sizes of all.

    The first one is returned unless another is clearly faster.
    """
    common = set.intersection(*map(set, seconds.values()))  # one may hold larger batches
    means = {
        name: math.prod(timed[rows] for rows in common) ** (1 / len(common))
        for name, timed in seconds.items()
    }
    first, best = next(iter(means)), min(means, key=lambda name: means[name])
    return best if means[best] < means[first] * _CLEARLY_FASTER else first
