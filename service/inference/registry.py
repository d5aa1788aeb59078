"""The registry of the models that serve, and of those that are unavailable, with the reasons."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from models.kinds.tensor_spec import TensorSpec
from models.package.model_package import ModelPackage, PackageError
from models.package.readme import batching_note
from models.package.repository import ModelRepository, RepositoryError
from models.package.text import escaped
from models.runtimes.devices import DeviceError
from service.errors import BadInputError, LoadingError, NotReadyError, UnknownModelError
from service.inference.descriptions import Description, describe
from service.inference.loader import Loaded, Loader, in_time
from service.inference.paths import without_paths
from service.inference.placement import limit_memory, pick_device
from service.inference.predictor import Predictor
from service.inference.served_versions import older_versions
from service.inference.timings_cache import TimingsCache
from service.settings import Settings
from service.telemetry.logs import logger

Given = TypeVar("Given")
Result = TypeVar("Result")


class ModelRegistry:
    """The newest version of every package in the repository, loaded once.

    `open` verifies, places and warms up every package. A model serves as soon as it is loaded,
    while others are loaded. An unavailable package does not prevent the others from serving.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timings = TimingsCache(settings.timings_folder)
        self._predictors: dict[str, Predictor] = {}
        self._descriptions: dict[str, Description] = {}
        self._unavailable: dict[str, str] = {}
        self._notices: Mapping[str, str] = {}
        self._loading: set[str] | None = None  # the names; None until they are known
        self._changed = asyncio.Event()  # of `_loading`; each change has its own
        self._closing = False
        self._load_seconds: defaultdict[str, float] = defaultdict(float)
        self._open = False
        self._unfit: list[str] = []  # models with a runtime that cannot use the device
        self.lost = ""
        """Why the GPU does not respond, so that nothing can be computed; empty otherwise."""

    async def open(self, worker_index: int = 1) -> None:
        """Load every package. Files and networks are read off the event loop.

        Networks that an earlier start has timed are loaded side by side. The others follow one
        after another, because other work would disturb their timings.

        Args:
            worker_index: of this process among the workers, from 1.

        Raises:
            TimeoutError: the devices could not be listed in time.
        """
        settings = self._settings
        patience = settings.max_load_seconds
        repository = ModelRepository(settings.model_repository)
        try:
            device = await in_time(patience, pick_device, settings.device, worker_index)
        except TimeoutError:
            raise TimeoutError(f"the GPUs could not be listed within {patience:g} s") from None
        await in_time(patience, limit_memory, settings.runtime, settings.max_compute_bytes)
        names = await self._names(repository)
        self._loading = set(names)
        self._note_change()
        loader = Loader(repository, device, settings, self._timings)
        slots = asyncio.Semaphore(loader.side_by_side)
        untimed: dict[str, ModelPackage] = {}

        async def load_timed(name: str) -> None:
            async with slots:
                loaded = await self._attempt(name, loader.load_timed, name)
            if isinstance(loaded, ModelPackage):
                untimed[name] = loaded
            elif loaded is not None:
                self._serve(name, loaded, device)

        await asyncio.gather(*map(load_timed, names))
        for name in names:
            if name in untimed:
                predictor = await self._attempt(name, loader.load, untimed[name])
                if predictor is not None:
                    self._serve(name, predictor, device)
        for name in settings.model_weights.keys() - set(names):
            logger.warning("FITSERVE_MODEL_WEIGHTS names %r, which is not in the repository", name)
        if not self._predictors:
            logger.error("there is no model to serve in %s", settings.model_repository)
        if not settings.require_device:
            self._unfit.clear()
        elif self._unfit:
            logger.error(
                "not ready, as FITSERVE_REQUIRE_DEVICE is set: no GPU for some runtime of %s",
                ", ".join(self._unfit),
            )
        if settings.package_public_key is not None:
            self._notices = await self._older_versions(settings)
            for name, notice in self._notices.items():
                card, placement = self[name].card, self[name].placement
                self._descriptions[name] = describe(card, placement, notice)
        self._open = True

    async def _attempt(
        self, name: str, work: Callable[[Given], Result], given: Given
    ) -> Result | None:
        """Return the result of a step of loading; None if it makes the package unavailable."""
        patience, started = self._settings.max_load_seconds, time.monotonic()
        try:
            result = await in_time(patience, work, given)
        except PackageError as error:
            if isinstance(error.__cause__, DeviceError):
                self._unfit.append(name)
            self._mark_unavailable(name, str(error))
        except TimeoutError:
            self._mark_unavailable(name, f"package {name}: it was not loaded within {patience:g} s")
        except Exception as error:  # noqa: BLE001 - any error: the other models serve
            kind = type(error).__name__
            reason = f"package {name}: it cannot be served ({kind}; see the service's log)"
            self._mark_unavailable(name, reason, error)
        else:
            self._load_seconds[name] += time.monotonic() - started
            return result
        return None

    def _serve(self, name: str, loaded: Loaded, device: str) -> None:
        """Serve a model from now on."""
        package, placement, description, tokenizer = loaded
        seconds = self._load_seconds[name]
        self._descriptions[name] = description
        self._predictors[name] = Predictor(package, placement, self._settings, seconds, tokenizer)
        self._end_loading(name)
        if placement.unused or device == "cpu":
            self._unfit.append(name)
        logger.info("serving %s", _placed(self._predictors[name]))

    async def _names(self, repository: ModelRepository) -> list[str]:
        patience = self._settings.max_load_seconds
        try:
            return await in_time(patience, repository.names)
        except RepositoryError as error:
            logger.error("%s", error)
        except TimeoutError:
            logger.error("the repository %s was not read within %g s", repository.root, patience)
        return []

    def _mark_unavailable(self, name: str, reason: str, cause: Exception | None = None) -> None:
        """Record why a package does not serve, without this machine's paths for callers."""
        root, reason = self._settings.model_repository, escaped(reason)
        self._unavailable[name] = without_paths(reason, root)
        self._end_loading(name)
        logger.error("unavailable: %s, in %s", reason, root / name, exc_info=cause)

    def _end_loading(self, name: str) -> None:
        if self._loading is not None:
            self._loading.discard(name)
            self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _older_versions(self, settings: Settings) -> Mapping[str, str]:
        file, root = settings.versions_file, settings.model_repository
        served = {predictor.card.name: int(predictor.card.version) for predictor in self}
        try:
            return await in_time(settings.max_load_seconds, older_versions, served, file, root)
        except TimeoutError:
            logger.warning("the record of the versions served was not read in time")
            return {}

    async def close(self) -> None:
        """Finish the queued requests of every model, and refuse new ones."""
        self._open, self._closing = False, True
        self._note_change()
        await asyncio.gather(*(predictor.close() for predictor in self))

    @property
    def ready(self) -> bool:
        """Whether loading has finished, a model serves, and the device is used as required."""
        return self._open and bool(self._predictors) and not (self._unfit or self.lost)

    @property
    def is_loading(self) -> bool:
        """Whether models are still being loaded."""
        return self._loading is None or bool(self._loading)

    @property
    def alive(self) -> bool:
        """Whether this process can still serve; if not, it must be restarted."""
        return not self.lost and not any(predictor.stuck for predictor in self)

    async def wait_until_loaded(self, name: str) -> None:
        """Wait while the model called `name` is being loaded, no longer than a request may wait.

        A server that refused predictions while it loads would attract them: a proxy that prefers
        the server with the fewest connections sends it more, the faster it refuses.
        """
        if not self._is_awaited(name):  # a timer would keep the request's context for a while
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.timeout_seconds):
                while self._is_awaited(name):
                    await self._changed.wait()

    def _is_awaited(self, name: str) -> bool:
        """Whether the model called `name` does not serve yet, but may soon."""
        if self._closing or name in self._predictors:
            return False
        return self._loading is None or name in self._loading

    @property
    def loading(self) -> Sequence[str]:
        """The names of the packages that are not loaded yet; empty before they are known."""
        return sorted(self._loading or ())

    @property
    def unavailable(self) -> Mapping[str, str]:
        """The reason for each package that does not serve, by name."""
        return dict(sorted(self._unavailable.items()))

    @property
    def notices(self) -> Mapping[str, str]:
        """Notices about models that serve: an older version than before."""
        return self._notices

    def description(self, name: str) -> Description:
        """Return the description of the model called `name`.

        Raises:
            NotReadyError: as for `[name]`.
            UnknownModelError: as for `[name]`.
        """
        return self._descriptions[self[name].card.name]

    def __iter__(self) -> Iterator[Predictor]:
        """Iterate over the models that serve, by name."""
        return (self._predictors[name] for name in sorted(self._predictors))

    def __getitem__(self, name: str) -> Predictor:
        """Return the model called `name`.

        Raises:
            LoadingError: the model is being loaded.
            NotReadyError: the model is unavailable, or the GPU is lost.
            UnknownModelError: there is no such model.
        """
        if self.lost:
            raise NotReadyError("The GPU does not respond; try again in a few seconds.")
        if name in self._predictors:
            return self._predictors[name]
        if self._loading is None:
            raise LoadingError("The models are being loaded; try again in a few seconds.")
        if name in self._loading:
            raise LoadingError(f"Model {name!r} is being loaded; try again in a few seconds.")
        if name in self._unavailable:
            raise NotReadyError(
                f"Model {name!r} is unavailable since the service started; see its log."
            )
        raise UnknownModelError(
            f"Request for unknown model: {name[:100]!r} is not found; GET /models has the others."
        )

    def accepting(self, name: str, spec: TensorSpec) -> Predictor:
        """Return the model called `name`, if its only input is a tensor like `spec`.

        Raises:
            BadInputError: the model has other inputs.
            NotReadyError: as for `[name]`.
            UnknownModelError: as for `[name]`.
        """
        predictor = self[name]
        if not _takes(predictor, spec):
            others = [other.card.name for other in self if _takes(other, spec)]
            raise BadInputError(
                f"Model {name!r} does not take {spec.name} ({spec.to_text()}); "
                f"these do: {', '.join(others) or 'none'}."
            )
        return predictor


def _takes(predictor: Predictor, spec: TensorSpec) -> bool:
    return [(spec.name, spec.datatype, spec.shape) for spec in predictor.card.inputs] == [
        (spec.name, spec.datatype, spec.shape)
    ]


def _placed(predictor: Predictor) -> str:
    runtime, seconds = predictor.placement[:2]
    timings = "; ".join(
        f"{name} "
        + ", ".join(f"{value * 1e3:.2f} ms for {rows}" for rows, value in by_rows.items())
        for name, by_rows in seconds.items()
    )
    notes = [f"{runtime.name} on {runtime.device}", batching_note(predictor.card)]
    if predictor.limit in ("time", "memory"):
        rows = predictor.max_batch_rows
        notes.append(
            f"batches of at most {rows} row{'s' * (rows != 1)} to limit their {predictor.limit}"
        )
    placed = ", ".join(filter(None, notes))
    return f"{predictor.package.label} with {placed} ({timings})"
