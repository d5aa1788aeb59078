"""One loaded model: its package, its runtime and its batcher. Every endpoint calls this."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from models.package import ModelPackage
from service.bad_values import check_ranges, judge
from service.batching.batch import Answer, Arrays
from service.batching.batcher import BatchReport, MicroBatcher
from service.busy_polling import BusyPolling
from service.callbacks import called_back
from service.errors import ServiceError
from service.http.exchange import Exchange, current
from service.placement import Placement
from service.settings import Settings
from service.telemetry.metrics import ModelMetrics, show_model
from service.telemetry.statistics import ModelStatistics

STUCK = 3
"""Computes that never ended, each of which holds a thread and perhaps a lock."""

BATCHES_IN_A_WAIT = 8
"""So many full batches take at most what a request may wait: who comes last is soon answered."""

AHEAD_SECONDS = 0.005
"""In batches that take longer, what the event loop takes between two of them does not count."""


class Predictor:
    """A model that is verified, warm and ready. Create it on the event loop that serves it.

    Args:
        package: the package, whose files were checked when the placement opened them.
        placement: the runtime to compute with.
        settings: the limits of its batches and its queue.
        load_seconds: how long it took from the disk to here.
    """

    def __init__(
        self,
        package: ModelPackage,
        placement: Placement,
        settings: Settings,
        load_seconds: float = 0.0,
    ) -> None:
        self.package = package
        self.card = package.card
        """What the package says of its network."""
        self.placement = placement
        self.statistics = ModelStatistics()
        most = min(settings.max_batch_rows, placement.most_rows or settings.max_batch_rows)
        in_time = placement.rows_in(settings.max_wait_seconds / BATCHES_IN_A_WAIT, otherwise=most)
        self.max_batch_rows = package.card.fixed_batch or min(most, max(in_time, 1))
        self._name, self._version = self.card.name, self.card.version
        self._ranged = tuple(spec for spec in self.card.inputs if spec.enforced)
        self._settings = settings
        self._metrics = ModelMetrics(package.card.name)
        show_model(package.card, placement, load_seconds)
        self._polling = BusyPolling(settings.polling_seconds)
        self._inline_rows = placement.rows_within(settings.inline_seconds)
        self._batcher = MicroBatcher(
            placement.runtime,
            max_batch_rows=self.max_batch_rows,
            max_queue_rows=settings.max_queue_rows,
            max_delay=settings.max_delay_seconds,
            max_wait=settings.max_wait_seconds,
            full_seconds=placement.seconds_of(self.max_batch_rows),
            ahead_seconds=AHEAD_SECONDS,
            inline_rows=self._inline_rows,
            inline_compute=placement.small,
            whole=package.card.batching == "none",
            judge=partial(judge, self.card),
            name=package.card.name,
            on_batch=self._count,
        )

    @property
    def batching(self) -> dict[str, Any]:
        """The batcher's limits, in the words of Triton's `ModelDynamicBatching`."""
        return {
            "max_queue_delay_microseconds": round(self._settings.max_delay_seconds * 1e6),
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": round(self._settings.timeout_seconds * 1e6),
                "allow_timeout_override": True,
            },
        }

    @property
    def stuck(self) -> bool:
        """Whether so many computes have not ended that the process had better begin anew."""
        return self._batcher.given_up >= STUCK

    def check_room(self) -> None:
        """Before a request is read: refuse it where its reading would be in vain.

        Raises:
            ServiceError: as `MicroBatcher.check_room` says.
        """
        try:
            self._batcher.check_room()
        except ServiceError:
            self.statistics.failed(0.0)
            raise

    def look(self) -> None:
        """What is to be done now and then, whether requests come or not."""
        self._batcher.give_up_after(self._settings.max_compute_seconds)
        self._metrics.show_queue(self._batcher.queued_rows, self._batcher.given_up)

    def begin(
        self,
        exchange: Exchange,
        inputs: Arrays,
        done: Callable[[Answer | ServiceError], None],
        timeout: float | None = None,
    ) -> Callable[[], None]:
        """Compute the outputs of one request, batched with whatever else has come in.

        Args:
            exchange: what is known of the request; what is learnt of it is written there.
            inputs: the card's inputs, with its dtypes and shapes, all with as many rows.
            done: called once, on the event loop, as `MicroBatcher.enqueue` says.
            timeout: seconds that the request may wait, where that is less than the setting.

        Returns:
            What gives the request up, for a caller that goes away: `done` is not called then.

        Raises:
            BadInputError: a value is outside the range that the card asks for.
            ServiceError: as `MicroBatcher.enqueue` says.
        """
        batcher, statistics = self._batcher, self.statistics
        exchange.model, exchange.version = self._name, self._version
        exchange.submitted = started = time.monotonic()
        allowed = self._settings.timeout_seconds
        if timeout is not None:
            allowed = min(timeout, allowed)

        def finish(answer: Answer | ServiceError) -> None:
            if isinstance(answer, ServiceError):
                statistics.failed(time.monotonic() - started)
            else:
                exchange.answered = time.monotonic()
                exchange.queue_seconds = answer.queue_seconds
                exchange.compute_seconds = answer.compute_seconds
                exchange.batch_rows = answer.batch_rows
            done(answer)

        def give_up() -> None:
            if request.done is not None:
                statistics.failed(time.monotonic() - started)
                batcher.withdraw(request)

        try:
            if self._ranged:
                check_ranges(self.card, self._ranged, inputs)
            request = batcher.enqueue(inputs, finish, timeout=allowed)
        except ServiceError:
            statistics.failed(time.monotonic() - started)
            raise
        exchange.rows = request.rows
        return give_up

    async def predict(self, inputs: Arrays, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 - the batcher's
        """What `begin` gives for the current exchange, for a caller that can wait for it.

        Raises:
            ServiceError: as `begin` says, or what it gave in place of an answer.
        """
        exchange = current()
        answer: Answer | ServiceError = await called_back(
            lambda done: self.begin(exchange, inputs, done, timeout)
        )
        if isinstance(answer, Answer):
            return answer
        try:
            raise answer
        finally:
            del answer  # or this frame, which its traceback holds, would hold it

    async def close(self) -> None:
        """Answer what is queued, and take no more."""
        await self._batcher.close()

    def _count(self, report: BatchReport) -> None:
        self.statistics.executed(report)
        self._metrics.count(report)
        if report.requests == 1 and report.rows <= self._inline_rows:  # else threads want the core
            self._polling.answered(report.answered_seconds)
