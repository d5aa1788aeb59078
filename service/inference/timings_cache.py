"""The timings of earlier starts, kept in a folder, so that a network is not timed at each start.

Each file has the timings of one package on one machine under one configuration. The name of the
file is a digest of everything that the timings depend on. The folder may be removed at any time: a
file that is missing, damaged or unreadable only means that the network is timed again.
"""

import hashlib
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.package.card import MODEL_FILES, RuntimeName
from models.package.files import FileError, open_file, read_all
from models.package.model_package import ModelPackage
from models.runtimes.devices import device_name
from service.inference.warm_up import Limit
from service.telemetry.logs import logger

_FORMAT = 2  # of the files; another warm-up makes another format
_MORE_MEMORY = 2  # times as much may allow larger batches
_MAX_BYTES = 64 * 2**10
_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "torch")

_Seconds = dict[
    Annotated[int, Field(ge=1, le=2**31)],
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
]


class TimingsRecord(BaseModel):
    """The timings of one package.

    Attributes:
        runtime: the runtime that was chosen.
        seconds: the seconds of a batch by its rows, for each runtime that was timed.
        limit: why no larger batches were timed.
        memory_bytes: the memory of the largest batch of `runtime`.
        budget_bytes: the most that it could take.
        inline_seconds: as `seconds`, of the runtime for batches on the event loop, if there is one.
        one_thread: whether `runtime` has one thread, because all its batches are short.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    runtime: RuntimeName
    seconds: dict[RuntimeName, Annotated[_Seconds, Field(min_length=1)]]
    limit: Limit
    memory_bytes: int = Field(ge=0)
    budget_bytes: int = Field(ge=0)
    inline_seconds: Annotated[_Seconds, Field(min_length=1)] | None = None
    one_thread: bool = False

    def fits(self, budget_bytes: float) -> bool:
        """Return whether the same batches would be timed with this much memory."""
        if self.limit == "memory" and budget_bytes > _MORE_MEMORY * self.budget_bytes:
            return False
        return self.memory_bytes <= budget_bytes


class TimingsCache:
    """A folder of timings.

    Args:
        folder: the folder, which is created if necessary; None for that of this user, `off` for
            none.
    """

    def __init__(self, folder: Path | Literal["off"] | None = None) -> None:
        self._folder = _default_folder() if folder is None else folder

    def read(self, key: str, runtimes: Sequence[RuntimeName]) -> TimingsRecord | None:
        """Return the timings with this key; None if there are none that can be used.

        Args:
            key: as `timings_key` returns it.
            runtimes: those that may be used. Timings of others are not returned.
        """
        if not isinstance(self._folder, Path):
            return None
        try:
            with open_file(self._folder / f"{key}.json") as stream:
                record = TimingsRecord.model_validate_json(read_all(stream, _MAX_BYTES))
        except (FileError, ValidationError):
            return None
        is_whole = record.runtime in record.seconds and set(record.seconds) <= set(runtimes)
        return record if is_whole else None

    def write(self, key: str, record: TimingsRecord) -> None:
        """Keep the timings. A folder that cannot be written is reported once, and not used again.

        The file is replaced atomically, since several workers may write it at once.
        """
        if not isinstance(self._folder, Path):
            return
        staging = None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=self._folder, prefix=".timings-", delete=False
            ) as stream:
                staging = Path(stream.name)
                stream.write(record.model_dump_json().encode())
            staging.replace(self._folder / f"{key}.json")
        except OSError as error:
            if staging:
                with suppress(OSError):
                    staging.unlink()
            reason = error.strerror or type(error).__name__
            message = "the timings are not kept for the next start: %s cannot be written (%s)"
            logger.info(message, self._folder, reason)
            self._folder = "off"


def timings_key(
    package: ModelPackage, runtimes: Sequence[RuntimeName], device: str, settings: Mapping[str, Any]
) -> str:
    """Return the digest of everything that the timings of a package depend on.

    Args:
        package: the package. The digests of its card and of its networks count, not its name.
        runtimes: the runtimes that may be used.
        device: `cpu` or `cuda:<index>`.
        settings: the settings that matter, by name.
    """
    files = package.card.files
    content = {
        "format": _FORMAT,
        "card": package.card_sha256,
        "files": {name: files[MODEL_FILES[name]].sha256 for name in runtimes},
        "machine": [platform.system(), platform.machine(), _processor(), usable_cores()],
        "device": [device, "" if device == "cpu" else device_name(device)],
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "settings": dict(settings),
    }
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def _default_folder() -> Path | Literal["off"]:
    cache = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # this user has no home
        return "off"
    return home / "fitserve" / "timings"


@cache
def _processor() -> str:
    """Return the model of the CPU, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0


@cache
def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
