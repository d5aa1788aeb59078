"""One loaded model: its package, its runtime and its batcher. Every endpoint calls this."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from models.kinds.tokens import Tokenizer
from models.package.card import MODEL_FILES, ModelCard
from models.package.model_package import ModelPackage
from service.batching.batch import Arrays, DoneCallback, InferenceRequest, InferenceResponse
from service.batching.batcher import BatchReport, MicroBatcher
from service.batching.costs import CostModel
from service.concurrency import wait_for_callback
from service.errors import ServiceError
from service.inference.bad_values import check_ranges, judge
from service.inference.busy_polling import BusyPolling
from service.inference.groups import RequestGroups
from service.inference.placement import Placement
from service.inference.slowdown import SlowdownWatch
from service.inference.tokenizing import TextReader
from service.inference.warm_up import Limit
from service.inference.weights import add_niceness, niceness
from service.settings import Settings
from service.telemetry.metrics import ModelMetrics, show_model
from service.telemetry.request_context import RequestContext, current_request
from service.telemetry.statistics import ModelStatistics

MAX_HUNG = 3
"""With this many abandoned computes, each of which holds a thread, the process is not alive."""

BATCHES_IN_A_WAIT = 8
"""The batch size is chosen so that this many full batches fit into the longest wait. As many may
wait of a network whose smallest batch takes longer."""

PREFETCH_SECONDS = 0.005
"""A full batch that takes longer is not prefetched: the time of the event loop between two batches
is small beside it."""


INLINE_BYTES = 2**18
"""The event loop computes no batch with larger outputs: new memory takes longer while it serves
than in the timings at the start, and the outputs are copied into the responses."""


def batch_seconds(settings: Settings) -> float:
    """Return the seconds that a full batch may take."""
    return settings.max_queue_seconds / BATCHES_IN_A_WAIT


class Predictor:
    """A model that is verified, warm and ready. Create it on the event loop that serves it.

    Args:
        package: the package, whose files were checked when the placement opened them.
        placement: the runtime to compute with.
        settings: the limits of its batches and its queue.
        load_seconds: how long it took from the disk to here.
        tokenizer: of a network for texts.
    """

    def __init__(
        self,
        package: ModelPackage,
        placement: Placement,
        settings: Settings,
        load_seconds: float = 0.0,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.package = package
        self.card = package.card
        """What the package says of its network."""
        self.placement = placement
        self.texts = None if tokenizer is None else TextReader(tokenizer)
        """Reads the texts of requests; None for other networks."""
        self.statistics = ModelStatistics()
        max_rows = min(settings.max_batch_rows, placement.most_rows or settings.max_batch_rows)
        in_time = placement.rows_in(batch_seconds(settings), otherwise=max_rows)
        self.max_batch_rows = package.card.fixed_batch or min(max_rows, max(in_time, 1))
        self.limit: Limit = "time" if self.max_batch_rows < max_rows else placement.limit or "rows"
        """Why its batches are not larger."""
        costs, inline_costs = CostModel(placement.timings), CostModel(placement.inline_timings)
        self._name, self._version = self.card.name, self.card.version
        groups = RequestGroups(self.card)
        self._groups = None if groups.are_one else groups
        is_free = self.card.has_free_dimensions
        self._timed_elements = _elements_of_row(self.card) if is_free else None
        self._padding = self.card.padding
        self._ranged = tuple(spec for spec in self.card.inputs if spec.enforced)
        self._settings = settings
        self._metrics = ModelMetrics(package.card.name)
        _show(package.card, placement, load_seconds)
        self._polling = BusyPolling(settings.busy_poll_seconds)
        self._inline_rows = min(
            placement.rows_within(settings.inline_seconds),
            INLINE_BYTES // max(_output_bytes_of_row(self.card), 1),
        )
        self._slowdown: SlowdownWatch | None = None
        if not (is_free or placement.runtime.cost_varies):  # else the rows do not tell the cost
            self._slowdown = SlowdownWatch(
                package.label, self._inline_rows, self._seconds_of, self._metrics.show_slowdown
            )
        self._batcher = MicroBatcher(
            placement.runtime,
            max_batch_rows=self.max_batch_rows,
            max_queue_rows=settings.max_queue_rows,
            max_delay=settings.max_queue_delay_seconds,
            max_wait=settings.max_queue_seconds,
            least_batches=BATCHES_IN_A_WAIT + 1,
            costs=costs,
            batch_seconds=math.inf if package.card.fixed_batch else batch_seconds(settings),
            prefetch_seconds=PREFETCH_SECONDS,
            inline_rows=self._inline_rows,
            inline_compute=placement.inline_runtime,
            inline_costs=inline_costs if placement.inline_timings else costs,
            inline_seconds=settings.inline_seconds if self._inline_rows else 0.0,
            judge=partial(judge, self.card.rows_first),
            name=package.card.name,
            on_batch=self._count,
            prepare_thread=partial(add_niceness, niceness(settings.model_weights, self._name)),
        )

    @property
    def batching(self) -> dict[str, Any]:
        """The batcher's limits, in the words of Triton's `ModelDynamicBatching`."""
        return {
            "max_queue_delay_microseconds": round(self._settings.max_queue_delay_seconds * 1e6),
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": round(self._settings.timeout_seconds * 1e6),
                "allow_timeout_override": True,
            },
        }

    @property
    def stuck(self) -> bool:
        """Whether `MAX_HUNG` computations hang, after which only a new process helps."""
        return self._batcher.hung >= MAX_HUNG

    def check_capacity(self, context: RequestContext) -> None:
        """Check that a request would be accepted now, before it is decoded.

        Args:
            context: of the request.

        Raises:
            ServiceError: as `MicroBatcher.check_capacity` says.
        """
        try:
            self._batcher.check_capacity(caller=context.caller)
        except ServiceError:
            self.statistics.failed(0.0)
            raise

    def check(self) -> None:
        """Abandon a compute that hangs, end an idle thread, and update the gauges.

        The watchdog calls this.
        """
        batcher = self._batcher
        batcher.abandon_hung(self._settings.max_compute_seconds)
        batcher.end_idle_thread()
        batcher.adapt()
        self._metrics.show_queue(batcher.queued_rows, batcher.expected_wait, batcher.hung)

    def enqueue(
        self,
        context: RequestContext,
        inputs: Arrays,
        done_callback: DoneCallback,
        timeout: float | None = None,
    ) -> "Prediction":
        """Submit one request, to be batched with others where its rows are proved independent.

        Args:
            context: of the request; model, rows and times are noted in it.
            inputs: the card's inputs, with its dtypes and shapes, all with the same number of rows,
                which are first (`ModelCard.rows_first`).
            done_callback: called once, on the event loop, as `MicroBatcher.enqueue` says.
            timeout: seconds that the request may wait, if less than the setting.

        Returns:
            The prediction. Its `cancel` takes it back: `done_callback` is not called then.

        Raises:
            BadInputError: a value is outside the range that the card requires, or the rows have
                different values of an input that they share.
            ServiceError: as `MicroBatcher.enqueue` says.
        """
        context.model, context.version = self._name, self._version
        context.submitted = time.monotonic()
        allowed = self._settings.timeout_seconds
        if timeout is not None:
            allowed = min(timeout, allowed)
        prediction = Prediction(context, self.statistics, done_callback)
        try:
            if self._ranged:
                check_ranges(self.card, self._ranged, inputs)
            if self._padding is not None and (target := self._padding.target(inputs)):
                length = self._padding.length_of(inputs) or 0
                prediction.cut = partial(self._padding.cut, length=length)
                inputs = self._padding.pad(inputs, target)
            group, whole = (None, False) if self._groups is None else self._groups.find(inputs)
            request = self._batcher.enqueue(
                inputs,
                prediction.complete,
                timeout=allowed,
                whole=whole,
                size=self._size_of(inputs) if whole else 0.0,
                caller=context.caller,
                group=group,
            )
        except ServiceError:
            prediction.count_failure()
            raise
        prediction.request = request
        context.rows = request.rows
        return prediction

    async def predict(
        self,
        inputs: Arrays,
        timeout: float | None = None,  # noqa: ASYNC109 - of the request, in the queue
    ) -> InferenceResponse:
        """Submit the current request as `enqueue` does, and wait for the response.

        Raises:
            ServiceError: as `enqueue` says, or the error in place of the response.
        """
        context = current_request()
        response: InferenceResponse | ServiceError = await wait_for_callback(
            lambda done: self.enqueue(context, inputs, done, timeout)
        )
        if isinstance(response, InferenceResponse):
            return response
        try:
            raise response
        finally:
            del response  # the traceback holds this frame, which would hold the error

    async def close(self) -> None:
        """Refuse new requests, and compute the queued ones."""
        if self.texts is not None:
            self.texts.close()
        await self._batcher.close()

    def _size_of(self, inputs: Arrays) -> float:
        """Return how many rows of the size that was timed are as large; 0 if all are so large."""
        if not self._timed_elements:
            return 0.0
        return sum(array.size for array in inputs.values()) / self._timed_elements

    def _seconds_of(self, rows: int) -> float:
        """Return the seconds of a batch at the start, where it would be computed; 0 if unknown."""
        return self.placement.seconds_of(rows, inline=rows <= self._inline_rows)

    def _count(self, report: BatchReport) -> None:
        self.statistics.executed(report)
        self._metrics.count(report)
        if self._slowdown is not None:
            self._slowdown.observe(report.rows, report.timings.compute_infer)
        if report.requests == 1 and report.rows <= self._batcher.inline_rows:
            # With threads, polling would take a core from them.
            self._polling.answered(report.answered_seconds)


class Prediction:
    """One request to a model, in progress.

    Args:
        context: of the request.
        statistics: of the model.
        done_callback: called with the response, after it was noted in the context.
    """

    __slots__ = ("_context", "_done_callback", "_statistics", "cut", "request")

    def __init__(
        self, context: RequestContext, statistics: ModelStatistics, done_callback: DoneCallback
    ) -> None:
        self._context = context
        self._statistics = statistics
        self._done_callback = done_callback
        self.request: InferenceRequest | None = None
        self.cut: Callable[[Arrays], Arrays] | None = None
        """Cuts the padding off the outputs."""

    def complete(self, response: InferenceResponse | ServiceError) -> None:
        """Note the response, and call back."""
        context = self._context
        if isinstance(response, ServiceError):
            self.count_failure()
        else:
            context.answered = time.monotonic()
            context.queue_seconds = response.queue_seconds
            context.compute_seconds = response.compute_seconds
            context.batch_rows = response.batch_rows
            if self.cut is not None:
                response = response._replace(outputs=self.cut(response.outputs))
        self._done_callback(response)

    def cancel(self) -> None:
        """Take the request back; after its response, do nothing."""
        request = self.request
        if request is not None and request.done_callback is not None:
            self.count_failure()
            request.cancel()

    def count_failure(self) -> None:
        """Count the request as failed."""
        self._statistics.failed(time.monotonic() - self._context.submitted)


def _elements_of_row(card: ModelCard) -> int:
    """Return the elements of a row of the card's example, which the warm-up computes."""
    example = card.rows_first.example
    return sum(math.prod(tensor.array().shape[1:]) for tensor in example.inputs.values())


def _output_bytes_of_row(card: ModelCard) -> int:
    """Return the size of the outputs of a row of the card's example."""
    arrays = (tensor.array() for tensor in card.rows_first.example.outputs.values())
    return sum(math.prod(array.shape[1:]) * array.itemsize for array in arrays)


def _show(card: ModelCard, placement: Placement, load_seconds: float) -> None:
    """Show the model in the metrics."""
    runtime = placement.runtime
    differences = [
        record.largest_absolute_difference
        for record in card.parity
        if record.runtime == runtime.name
    ]
    show_model(
        card.name,
        card.version,
        runtime=runtime.name,
        device=runtime.device,
        digest=card.files[MODEL_FILES[runtime.name]].sha256
        if runtime.name in card.runtimes
        else "",
        load_seconds=load_seconds,
        unused_runtimes=len(placement.unused),
        parity_difference=differences[-1] if differences else None,
    )
