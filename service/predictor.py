"""One loaded model: its package, its runtime and its batcher. Every endpoint calls this."""

import numpy as np

from models.card import ModelCard
from models.package import ModelPackage
from service.batch import Arrays
from service.batching import Answer, MicroBatcher
from service.errors import BadInputError
from service.placement import Placement
from service.settings import Settings


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
        self._timeout = settings.timeout_seconds
        self._batcher = MicroBatcher(
            placement.runtime,
            max_batch_rows=settings.max_batch_rows,
            max_queue_rows=settings.max_queue_rows,
            max_delay=settings.max_delay_seconds,
            name=package.card.name,
        )

    @property
    def card(self) -> ModelCard:
        """What the package says of its network."""
        return self.package.card

    async def predict(self, inputs: Arrays) -> Answer:
        """Compute the outputs of one request, batched with whatever else has come in.

        Args:
            inputs: the card's inputs, with its dtypes and shapes, all with as many rows.

        Raises:
            BadInputError: an answer is infinite or no number: the input is far too large.
            ServiceError: as `MicroBatcher.submit` says.
        """
        answer = await self._batcher.submit(inputs, timeout=self._timeout)
        if not all(np.isfinite(array).all() for array in answer.outputs.values()):
            raise BadInputError(
                f"Model {self.card.name!r} has no finite answer to this input; "
                "send numbers nearer to those that it was fitted on."
            )
        return answer

    async def close(self) -> None:
        """Answer what is queued, and take no more."""
        await self._batcher.close()
