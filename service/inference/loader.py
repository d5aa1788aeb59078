"""The loading of one package: it is read, verified, placed and warmed up, on a thread."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, ParamSpec, TypeVar

from models.kinds.tokens import Tokenizer
from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository
from models.package.signature import verify_signature
from models.runtimes.loading import open_tokenizer
from service.inference.descriptions import Description, describe
from service.inference.loading_lock import loading_lock
from service.inference.placement import NotTimedError, Placement, place
from service.inference.predictor import batch_seconds
from service.inference.timings_cache import TimingsCache, usable_cores
from service.inference.warm_up import LONGEST_BATCH_SECONDS
from service.inference.weights import add_niceness, niceness
from service.settings import Settings

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Loaded(NamedTuple):
    """A package whose network is warm, its description, and the tokenizer of one for texts."""

    package: ModelPackage
    placement: Placement
    description: Description
    tokenizer: Tokenizer | None


class Loader:
    """Loads the packages of a repository. Its methods are called on threads.

    Args:
        repository: the packages.
        device: `cpu` or `cuda:<index>`.
        settings: of the service.
        timings: of earlier starts.
    """

    def __init__(
        self, repository: ModelRepository, device: str, settings: Settings, timings: TimingsCache
    ) -> None:
        self._repository = repository
        self._device = device
        self._settings = settings
        self._timings = timings

    @property
    def side_by_side(self) -> int:
        """How many packages are loaded at once: one on a GPU, whose memory is then known."""
        if self._device != "cpu":
            return 1
        return self._settings.intra_op_threads or usable_cores()

    def load_timed(self, name: str) -> Loaded | ModelPackage:
        """Load the newest package called `name` if an earlier start has timed its network.

        Returns:
            The package alone, verified, if its network must be timed.

        Raises:
            PackageError: the package cannot be served, with the reason.
        """
        package = self._repository.get(name)
        if self._settings.package_public_key is not None:
            verify_signature(package, self._settings.package_public_key)
        package.verify()
        try:
            return self._load(package, may_time=False)
        except NotTimedError:
            return package

    def load(self, package: ModelPackage) -> Loaded:
        """Load a verified package, and time its network if necessary.

        Raises:
            PackageError: the package cannot be served, with the reason.
        """
        return self._load(package, may_time=True)

    def _load(self, package: ModelPackage, *, may_time: bool) -> Loaded:
        settings = self._settings
        tokenizer = open_tokenizer(package)
        # The threads of the session take the niceness of this one, which ends with the loading.
        add_niceness(niceness(settings.model_weights, package.card.name))
        with loading_lock(self._device, settings.max_load_seconds / 2):
            placement = place(
                package,
                settings.runtime,
                self._device,
                threads=settings.intra_op_threads,
                max_batch_rows=settings.max_batch_rows,
                batch_seconds=min(batch_seconds(settings), LONGEST_BATCH_SECONDS),
                inline_seconds=settings.inline_seconds,
                # With timings, only the fastest runtime is opened.
                cache=None if settings.require_device else self._timings,
                may_time=may_time,
            )
        return Loaded(package, placement, describe(package.card, placement), tokenizer)


async def in_time(
    seconds: float,
    work: Callable[Parameters, Result],
    *given: Parameters.args,
    **named: Parameters.kwargs,
) -> Result:
    """Return the result of `work`, called on its own daemon thread; a hung thread is abandoned.

    asyncio's threads are joined when the process ends, which would then hang.

    Raises:
        TimeoutError: `work` did not end in time.
    """
    done: Future[Result] = Future()
    done.set_running_or_notify_cancel()  # only the thread can complete it from now on

    def run() -> None:
        try:
            done.set_result(work(*given, **named))
        except BaseException as error:  # noqa: BLE001 - raised by `await`
            done.set_exception(error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    async with asyncio.timeout(seconds):
        return await asyncio.wrap_future(done)
