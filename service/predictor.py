"""One loaded model: its package, its runtime and its batcher. Every endpoint calls this."""

import time
from typing import Any

from models.card import ModelCard
from models.package import ModelPackage
from service.batch import Arrays
from service.batching import Answer, BatchReport, MicroBatcher
from service.exchange import current
from service.metrics import BatchMetrics
from service.placement import Placement
from service.settings import Settings
from service.statistics import ModelStatistics


class Predictor:
    """A model that is verified, warm and ready. Create it on the event loop that serves it.

    Args:
        package: the package, whose files were checked when the placement opened them.
        placement: the runtime to compute with.
        settings: the limits of its batches and its queue.
    """

    def __init__(self, package: ModelPackage, placement: Placement, settings: Settings) -> None:
        self.package = package
        self.placement = placement
        self.statistics = ModelStatistics()
        self.max_batch_rows = package.card.fixed_batch or settings.max_batch_rows
        self._settings = settings
        self._metrics = BatchMetrics(package.card.name)
        self._batcher = MicroBatcher(
            placement.runtime,
            max_batch_rows=self.max_batch_rows,
            max_queue_rows=settings.max_queue_rows,
            max_delay=settings.max_delay_seconds,
            inline_rows=placement.rows_within(settings.inline_seconds),
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
    def card(self) -> ModelCard:
        """What the package says of its network."""
        return self.package.card

    async def predict(self, inputs: Arrays, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 - as the batcher's
        """Compute the outputs of one request, batched with whatever else has come in.

        Args:
            inputs: the card's inputs, with its dtypes and shapes, all with as many rows.
            timeout: seconds that the request may wait, where that is less than the setting.

        Raises:
            ServiceError: as `MicroBatcher.submit` says.
        """
        exchange, rows = current(), len(next(iter(inputs.values())))
        exchange.model, exchange.version = self.card.name, self.card.version
        exchange.rows = rows
        exchange.submitted = started = time.monotonic()
        allowed = self._settings.timeout_seconds
        if timeout is not None:
            allowed = min(timeout, allowed)
        try:
            answer = await self._batcher.submit(inputs, timeout=allowed)
        except BaseException:
            self.statistics.failed(time.monotonic() - started)
            raise
        exchange.queue_seconds = answer.queue_seconds
        exchange.compute_seconds = answer.compute_seconds
        exchange.batch_rows = answer.batch_rows
        exchange.answered = time.monotonic()
        self.statistics.succeeded(exchange.answered - started, answer.queue_seconds, rows)
        self._metrics.count_wait(answer.queue_seconds)
        return answer

    async def close(self) -> None:
        """Answer what is queued, and take no more."""
        await self._batcher.close()

    def _count(self, report: BatchReport) -> None:
        self.statistics.executed(report)
        self._metrics.count(report)
