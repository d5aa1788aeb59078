"""Which requests may share a batch: those of equal shapes, and of equal values of shared inputs."""

from models.package.card import ModelCard
from service.batching.batch import Arrays
from service.errors import BadInputError

Shapes = tuple[tuple[int, ...], ...]
Group = tuple[Shapes, tuple[bytes, ...]]
"""The shapes of a row of each input, and the values of the inputs that rows share."""


class RequestGroups:
    """The groups of the requests for one model. Rows of different groups are never joined.

    Args:
        card: of the model.
    """

    def __init__(self, card: ModelCard) -> None:
        self._name = card.name
        self._inputs = [spec.name for spec in card.inputs]
        self._shared = card.axes.shared
        shapes = [
            tuple([batched[name] for name in self._inputs]) for batched in card.batched_shapes
        ]
        self._shapes: frozenset[Shapes] | None = None
        self._groups: frozenset[Group] | None = None
        if card.batching == "none":
            self._shapes = frozenset()
        elif card.fixed_batch is None and card.batched_values:
            values = [
                tuple([recorded[name].array().tobytes() for name in self._shared])
                for recorded in card.batched_values
            ]
            self._groups = frozenset(zip(shapes, values, strict=True))
        elif card.fixed_batch is None and card.has_free_dimensions:
            self._shapes = frozenset(shapes)
        self.are_one = self._shapes is None and not self._shared
        """Whether all requests belong to one group, and none is whole."""

    def find(self, inputs: Arrays) -> tuple[Group, bool]:
        """Return the group of a request, and whether the request is a batch of its own.

        Raises:
            BadInputError: its rows have different values of a shared input.
        """
        shapes = tuple([inputs[name].shape[1:] for name in self._inputs])
        values = tuple([self._shared_value(name, inputs) for name in self._shared])
        group = shapes, values
        if self._groups is not None:
            return group, group not in self._groups
        return group, self._shapes is not None and shapes not in self._shapes

    def _shared_value(self, name: str, inputs: Arrays) -> bytes:
        rows = inputs[name]
        first = rows[:1].tobytes()
        if len(rows) > 1 and rows.strides[0] and rows.tobytes() != first * len(rows):
            raise BadInputError(
                f"The rows have different values of {name!r}, which all rows of a request to "
                f"model {self._name!r} share: send a request for each value."
            )
        return first
