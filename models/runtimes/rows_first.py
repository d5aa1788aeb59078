"""A runtime whose tensors have the rows first, over one with the layout of the network."""

from typing import Any

from numpy.typing import NDArray

from models.kinds.batch_axes import BatchAxes
from models.runtimes.runtime import Arrays, Runtime


class RowsFirst:
    """A runtime whose tensors have the rows first, over one with the network's layout.

    Args:
        runtime: the runtime.
        axes: the axes of the batch in the network.
    """

    def __init__(self, runtime: Runtime, axes: BatchAxes) -> None:
        self.name, self.device = runtime.name, runtime.device
        self.cost_varies = runtime.cost_varies
        self.runtime = runtime
        """The runtime with the network's layout."""
        self._axes = axes

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute the outputs of one batch, as `Runtime` says."""
        rows = len(next(iter(inputs.values())))
        outputs = self.runtime(self._axes.inputs_of_network(inputs))
        return self._axes.outputs_rows_first(outputs, rows)
