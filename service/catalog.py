"""The models that serve, by name, and those that were refused, with the reason."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from models.card import TensorSpec
from models.devices import DeviceError
from models.package import ModelPackage, PackageError
from models.repository import ModelRepository, RepositoryError
from models.signature import verify_signature
from models.text import escaped
from service.descriptions import Description, describe
from service.errors import BadInputError, NotReadyError, UnknownModelError
from service.paths import without_paths
from service.placement import Placement, pick_device, place
from service.predictor import Predictor
from service.served_versions import older_versions
from service.settings import Settings
from service.telemetry.logs import logger

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Catalog:
    """The newest version of every package in the repository, loaded once.

    It is empty until `open` has verified, placed and warmed up every package. A package that is
    refused does not keep the others from serving.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._predictors: dict[str, Predictor] = {}
        self._descriptions: dict[str, Description] = {}
        self._refused: dict[str, str] = {}
        self._notices: Mapping[str, str] = {}
        self._open = False
        self._unfit: list[str] = []  # the models that cannot use the device in each runtime
        self.lost = ""
        """Why nothing can be computed for now: the GPU does not answer. Empty where it does."""

    async def open(self, worker_index: int = 1) -> None:
        """Load every package. Files and networks are read off the event loop.

        Args:
            worker_index: of this process among its siblings, from 1.

        Raises:
            TimeoutError: it cannot be found out in time which devices there are.
        """
        settings = self._settings
        patience = settings.max_load_seconds
        repository = ModelRepository(settings.model_repository)
        try:
            device = await _in_time(patience, pick_device, settings.device, worker_index)
        except TimeoutError:
            raise TimeoutError(f"no GPU, and no lack of one, was found in {patience:g} s") from None
        for name in await self._names(repository):
            try:
                started = time.monotonic()
                package, placement, description = await _in_time(
                    patience, _load, repository, name, device, settings
                )
                seconds = time.monotonic() - started
            except PackageError as error:
                if isinstance(error.__cause__, DeviceError):
                    self._unfit.append(name)
                self._refuse(name, str(error))
                continue
            except TimeoutError:
                self._refuse(name, f"package {name}: it was not loaded within {patience:g} s")
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, the others serve on
                kind = type(error).__name__
                reason = f"package {name}: it cannot be served ({kind}; see the service's log)"
                self._refuse(name, reason, error)
                continue
            self._descriptions[name] = description
            self._predictors[name] = Predictor(package, placement, settings, seconds)
            if placement.unused or device == "cpu":
                self._unfit.append(name)
            logger.info("serving %s", _placed(self._predictors[name]))
        if not self._predictors:
            logger.error("there is no model to serve in %s", settings.model_repository)
        if not settings.require_device:
            self._unfit.clear()
        elif self._unfit:
            logger.error(
                "not ready, as FITSERVE_REQUIRE_DEVICE is set: no GPU for some runtime of %s",
                ", ".join(self._unfit),
            )
        if settings.package_key is not None:
            self._notices = await self._older_versions(settings)
            for name, notice in self._notices.items():
                card, placement = self[name].card, self[name].placement
                self._descriptions[name] = describe(card, placement, notice)
        self._open = True

    async def _names(self, repository: ModelRepository) -> list[str]:
        patience = self._settings.max_load_seconds
        try:
            return await _in_time(patience, repository.names)
        except RepositoryError as error:
            logger.error("%s", error)
        except TimeoutError:
            logger.error("the repository %s was not read within %g s", repository.root, patience)
        return []

    def _refuse(self, name: str, reason: str, cause: Exception | None = None) -> None:
        """Note why a package does not serve: for callers without the paths of this machine."""
        root, reason = self._settings.model_repository, escaped(reason)
        self._refused[name] = without_paths(reason, root)
        logger.error("refused: %s, in %s", reason, root / name, exc_info=cause)

    async def _older_versions(self, settings: Settings) -> Mapping[str, str]:
        file, root = settings.versions_file, settings.model_repository
        served = {predictor.card.name: int(predictor.card.version) for predictor in self}
        try:
            return await _in_time(settings.max_load_seconds, older_versions, served, file, root)
        except TimeoutError:
            logger.warning("the record of the versions served was not read in time")
            return {}

    async def close(self) -> None:
        """Answer what is queued in every model, and take no more."""
        self._open = False
        await asyncio.gather(*(predictor.close() for predictor in self))

    @property
    def ready(self) -> bool:
        """Whether loading is over, a model serves, and the device is there and used as required."""
        return self._open and bool(self._predictors) and not (self._unfit or self.lost)

    @property
    def alive(self) -> bool:
        """Whether this process can go on serving; where it cannot, it is to be started anew."""
        return not self.lost and not any(predictor.stuck for predictor in self)

    @property
    def refused(self) -> Mapping[str, str]:
        """Why each package that does not serve was refused."""
        return self._refused

    @property
    def notices(self) -> Mapping[str, str]:
        """What is to be known of packages that serve: that an older version was put back."""
        return self._notices

    def description(self, name: str) -> Description:
        """What is told of the model of that name.

        Raises:
            NotReadyError: as for `[name]`.
            UnknownModelError: as for `[name]`.
        """
        return self._descriptions[self[name].card.name]

    def __iter__(self) -> Iterator[Predictor]:
        """The models that serve, by name."""
        return iter(self._predictors.values())

    def __getitem__(self, name: str) -> Predictor:
        """The model of that name.

        Raises:
            NotReadyError: loading is not over, the package was refused, or the GPU is lost.
            UnknownModelError: there is no such model.
        """
        if self.lost:
            raise NotReadyError("The GPU does not answer; try again in a few seconds.")
        if name in self._predictors:
            return self._predictors[name]
        if not self._open:
            raise NotReadyError("The models are being loaded; try again in a few seconds.")
        if name in self._refused:
            raise NotReadyError(
                f"Model {name!r} was refused when the service started; see its log."
            )
        raise UnknownModelError(
            f"Request for unknown model: {name[:100]!r} is not found; GET /models has the others."
        )

    def taking(self, name: str, wanted: TensorSpec) -> Predictor:
        """The model of that name, if it takes a tensor like `wanted` and nothing else.

        Raises:
            BadInputError: it takes something else.
            NotReadyError: as for `[name]`.
            UnknownModelError: as for `[name]`.
        """
        predictor = self[name]
        if not _takes(predictor, wanted):
            others = [other.card.name for other in self if _takes(other, wanted)]
            raise BadInputError(
                f"Model {name!r} does not take {wanted.name} ({wanted.describe()}); "
                f"these do: {', '.join(others) or 'none'}."
            )
        return predictor


def _load(
    repository: ModelRepository, name: str, device: str, settings: Settings
) -> tuple[ModelPackage, Placement, Description]:
    """The newest package of that name, with every file checked, proved and warm."""
    package = repository.get(name)
    if settings.package_key is not None:
        verify_signature(package, settings.package_key)
    package.verify()
    placement = place(
        package,
        settings.runtime,
        device,
        threads=settings.threads,
        max_batch_rows=settings.max_batch_rows,
        inline_seconds=settings.inline_seconds,
    )
    return package, placement, describe(package.card, placement)


async def _in_time(
    seconds: float,
    work: Callable[Parameters, Result],
    *given: Parameters.args,
    **named: Parameters.kwargs,
) -> Result:
    """What `work` gives, on a thread of its own; one that hangs is left to itself.

    asyncio's threads are waited for when the process ends, which it then never would.

    Raises:
        TimeoutError: it did not end in time.
    """
    done: Future[Result] = Future()
    done.set_running_or_notify_cancel()  # from now on it can be ended by the thread alone

    def run() -> None:
        try:
            done.set_result(work(*given, **named))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            done.set_exception(error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    async with asyncio.timeout(seconds):
        return await asyncio.wrap_future(done)


def _takes(predictor: Predictor, wanted: TensorSpec) -> bool:
    return [(spec.name, spec.datatype, spec.shape) for spec in predictor.card.inputs] == [
        (wanted.name, wanted.datatype, wanted.shape)
    ]


def _placed(predictor: Predictor) -> str:
    runtime, seconds = predictor.placement[:2]
    timings = "; ".join(
        f"{name} " + ", ".join(f"{value * 1e3:.2f} ms for {rows}" for rows, value in taken.items())
        for name, taken in seconds.items()
    )
    alone = "" if predictor.card.batching == "rows" else ", each request alone (batching: none)"
    return f"{predictor.package.label} with {runtime.name} on {runtime.device}{alone} ({timings})"
