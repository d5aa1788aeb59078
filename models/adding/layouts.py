"""Where an added network has its batch, found by trying.

One, two and three rows are computed. An axis of an output that is as large as the number of rows,
and whose rows are those that are computed alone, is the axis of the batch. `--batch-axis`,
`--shared` and `--no-batch` state what is not to be tried. A network of which no axis is found is
served without batching: each request is one computation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import TYPE_CHECKING

import numpy as np

from models.adding.layout_rows import sample_rows, shared_values
from models.adding.specs import input_specs
from models.errors import AddError
from models.graphs.graph import all_nodes
from models.graphs.sample_texts import words_of
from models.kinds.batch_axes import Axes, BatchAxes
from models.proofs.parity import agree
from models.proofs.trial_sizes import require_safe
from models.runtimes.onnx_library import Weights
from models.runtimes.runtime import Arrays, DeclaredTensor, OnnxRuntime
from models.sources.importing import ForeignGraph, RowsFirstGraph
from models.sources.ranges import InputRange, with_ranges
from models.sources.samples import Samples, random_samples
from models.sources.stated_batch import Stated, require_known

if TYPE_CHECKING:
    import onnx

ROWS = 3
"""The rows that are computed, alone and together."""
MOST_LAYOUTS = 32
"""The layouts that are tried."""
DATA_SIZED = ("Compress", "NonMaxSuppression", "NonZero", "Unique")
"""The operators whose outputs have as many elements as the values say."""
NO_BATCH = "no axis of its inputs is that of a batch"
NO_ROWS = "the output {} does not have one row for each row of the inputs"


@dataclass(frozen=True)
class _Tried:
    """The outputs of some rows, alone and together, with the rows first if they have any."""

    axes: Axes
    equal: bool
    """Whether each row is the same in any batch."""
    unlike: str
    """The first output that does not have one row for each row; else empty."""


def _scalars(model: "onnx.ModelProto") -> frozenset[str]:
    """Return the inputs that are single values; other inputs without a shape may be anything."""
    return frozenset(
        value.name
        for value in model.graph.input
        if value.type.tensor_type.HasField("shape") and not value.type.tensor_type.shape.dim
    )


def _is_free(size: int | str | None) -> bool:
    return not isinstance(size, int) or size < 0


class LayoutSearch:
    """The search for the layout of one graph.

    Args:
        file: the name of the file, for errors.
        network: the graph.
        content: the bytes of its file.
        model: the parsed file.
        arrays: the sample in the network's layout; None for random rows.
        ranges: of the inputs, for random rows.
        stated: what the options say.
        weights: the content of the file beside the ONNX file, if it has one.

    Raises:
        AddError: an option names an unknown input or axis.
    """

    def __init__(
        self,
        file: str,
        network: OnnxRuntime,
        content: bytes,
        model: "onnx.ModelProto",
        arrays: Arrays | None,
        ranges: Sequence[InputRange],
        stated: Stated,
        weights: Weights | None,
    ) -> None:
        require_known(network.inputs, stated)
        self._file = file
        self._network = network
        self._content = content
        self._scalars = _scalars(model)
        self._data_sized = any(node.op_type in DATA_SIZED for node in all_nodes(model.graph.node))
        self._arrays = arrays
        self._ranges = ranges
        self._stated = stated
        self._weights = weights
        self._words = words_of(model)
        self._is_settled = True

    def first(self) -> ForeignGraph:
        """Return the graph in the usual layout if that is possible, else in the one that is found.

        Raises:
            AddError: the graph is not safe to compute, or does not have the batch as stated.
        """
        if self._stated.no_batch:
            return self._without_batch("--no-batch says so")
        if usual := self._usual():
            self._is_settled = False
            inputs, size = usual
            outputs: Axes = {tensor.name: 0 for tensor in self._network.outputs}
            return self._graph(BatchAxes(inputs, outputs), size)
        return self._found() or self._without_batch(NO_BATCH)

    def _found(self) -> ForeignGraph | None:
        """Return the graph in the first layout whose rows are the same alone and together.

        If there is none, return the first layout whose outputs have one row for each row.

        Raises:
            AddError: the graph is not safe to compute, or does not have the batch as stated.
        """
        second: ForeignGraph | None = None
        for inputs in self._candidates():
            rows = self._rows(inputs)
            tried = None if rows is None else self._tried(inputs, rows)
            if tried is None or tried.unlike:
                continue
            graph = self._graph(BatchAxes(inputs, tried.axes), None)
            if tried.equal:
                return graph
            second = second or graph
        if second is None and (self._stated.axes or self._stated.shared):
            raise AddError(
                f"{self._file}: it has no batch as --batch-axis and --shared say, since its "
                "outputs do not have one row for each row: state other axes, or --no-batch"
            )
        return second

    def settled(self, graph: ForeignGraph, rows: Arrays) -> ForeignGraph:
        """Return the graph itself if its outputs have one row for each row, else in another layout.

        Args:
            graph: of `first`.
            rows: some samples, which are safe to compute.

        Raises:
            AddError: the graph is not safe to compute, or does not have the batch as stated.
        """
        if self._is_settled:
            return graph
        self._is_settled = True
        inputs, size = graph.axes.inputs, graph.fixed_batch
        tried = self._tried(inputs, rows, size)
        if tried is None:  # the checks report it
            return graph
        if tried.unlike:
            if found := self._found():
                return found
            if size not in (None, 1):
                return self._without_batch(NO_BATCH)
            reason = NO_ROWS.format(tried.unlike)
            graph = replace(self._graph(BatchAxes(inputs, tried.axes), 1), whole=reason)
            growing = self._growing(inputs, rows) if size is None else None
            if growing is None:
                return graph
            return replace(graph, batch=-1, sized=graph.sized | growing)
        if tried.axes == graph.axes.outputs:
            return graph
        return self._graph(BatchAxes(inputs, tried.axes), size)

    # Layouts

    def _usual(self) -> tuple[Axes, int | None] | None:
        """Return the layout with the batch first, and its fixed size; None if it is not possible.

        Single values are shared.
        """
        if self._stated.shared or any(self._stated.axes.values()):
            return None
        axes: Axes = {
            tensor.name: None if tensor.name in self._scalars else 0
            for tensor in self._network.inputs
        }
        sizes = {
            None if _is_free(tensor.shape[0]) else tensor.shape[0]
            for tensor in self._network.inputs
            if tensor.shape
        }
        if len(sizes) > 1 or not any(axis == 0 for axis in axes.values()):
            return None
        size = sizes.pop() if sizes else None
        return axes, size if isinstance(size, int) else None

    def _candidates(self) -> Iterator[Axes]:
        """Yield the layouts to try: axes of any size, those of one name first."""
        choices = [self._choices(tensor) for tensor in self._network.inputs]
        combinations = list(islice(product(*choices), MOST_LAYOUTS))

        def order(axes: Sequence[int | None]) -> tuple[int, int]:
            names = {
                tensor.shape[axis] if tensor.shape else None
                for tensor, axis in zip(self._network.inputs, axes, strict=True)
                if axis is not None
            }
            return len(names), sum(axis or 0 for axis in axes)

        for axes in sorted(combinations, key=order):
            if any(axis is not None for axis in axes):
                yield dict(zip([tensor.name for tensor in self._network.inputs], axes, strict=True))

    def _choices(self, tensor: DeclaredTensor) -> Sequence[int | None]:
        if tensor.name in self._stated.axes:
            return (self._stated.axes[tensor.name],)
        if tensor.name in self._stated.shared or tensor.name in self._scalars:
            return (None,)
        if not tensor.shape:
            return (0,)
        return [axis for axis, size in enumerate(tensor.shape) if _is_free(size)] or (None,)

    # Graphs

    def _without_batch(self, reason: str) -> ForeignGraph:
        """Return a graph that has no batch: one row is one computation."""
        axes = BatchAxes(
            {tensor.name: None for tensor in self._network.inputs},
            {tensor.name: None for tensor in self._network.outputs},
        )
        return replace(self._graph(axes, 1), whole=reason)

    def _graph(self, axes: BatchAxes, size: int | None) -> ForeignGraph:
        usual = axes.is_rows_first
        network = self._network if usual else RowsFirstGraph(self._network, axes)
        sized = [name for name, axis in axes.outputs.items() if axis is None]
        return ForeignGraph(
            self._file, network, size, axes, batch=size or -1,
            sized=frozenset(sized if self._data_sized else ()), weights=self._weights,
        )  # fmt: skip

    # Trials

    def _tried(self, inputs: Axes, rows: Arrays, size: int | None = None) -> _Tried | None:
        """Return what the outputs are in a layout; None if they cannot be computed."""
        rows = Samples(rows, False, size).resized(size or ROWS)
        try:
            if size is not None:
                return self._fixed(self._compute(inputs, rows), size)
            alone = [self._compute(inputs, _cut(rows, row, row + 1)) for row in range(ROWS)]
        except Exception:  # noqa: BLE001 - the checks report it
            return None
        try:
            together = [self._compute(inputs, _cut(rows, 0, count)) for count in (2, ROWS)]
        except Exception:  # noqa: BLE001 - the checks report it, unless the outputs are of no rows
            unlike = [name for name, array in alone[0].items() if array.shape[:1] != (1,)]
            return _Tried(_axes(alone[0], 0, unlike), False, unlike[0]) if unlike else None
        split = self._stated.split
        return _compared(alone, together, None if split is None else split.output)

    def _fixed(self, outputs: Arrays, size: int) -> _Tried:
        unlike = [name for name, array in outputs.items() if array.shape[:1] != (size,)]
        return _Tried(_axes(outputs, 0, unlike), True, unlike[0] if unlike else "")

    def _growing(self, inputs: Axes, rows: Arrays) -> frozenset[str] | None:
        """Return the outputs that are larger for two rows; None if two rows are not computed so."""
        samples = Samples(rows, False, None)
        try:
            one, two = (self._compute(inputs, samples.resized(count)) for count in (1, 2))
        except Exception:  # noqa: BLE001 - any error: it computes one row only
            return None
        if any(two[name].ndim != array.ndim for name, array in one.items()):
            return None
        return frozenset(name for name, array in one.items() if two[name].shape != array.shape)

    def _compute(self, inputs: Axes, rows: Arrays) -> Arrays:
        """Return the outputs in the network's layout, of inputs with the rows first."""
        return self._network(BatchAxes(inputs, {}).inputs_of_network(rows))

    def _rows(self, inputs: Axes) -> Arrays | None:
        """Return rows for a trial; None if the sample does not fit the layout.

        Raises:
            AddError: the graph is not safe to compute.
        """
        outputs: Axes = {tensor.name: 0 for tensor in self._network.outputs}
        graph = self._graph(BatchAxes(inputs, outputs), None)
        try:
            rows: Arrays
            if self._arrays is not None:
                rows = sample_rows(self._file, graph, self._arrays)
            else:
                specs = with_ranges(input_specs(graph), self._ranges)
                rows = random_samples(
                    specs, None, self._words, shared_values(graph, self._stated)
                ).rows
        except AddError:
            return None
        counts = {len(array) for array in rows.values()}
        if len(counts) > 1 or 0 in counts:
            return None
        rows = Samples(rows, False, None).resized(ROWS)
        declared, weights = graph.network.inputs, self._weights
        require_safe(self._file, self._content, declared, rows, inputs, weights)
        return rows


def _cut(rows: Arrays, start: int, stop: int) -> Arrays:
    return {name: array[start:stop] for name, array in rows.items()}


def _axes(outputs: Arrays, axis: int, unlike: Sequence[str]) -> Axes:
    return {name: None if name in unlike else axis for name in outputs}


def _compared(alone: Sequence[Arrays], together: Sequence[Arrays], index: str | None) -> _Tried:
    """Return the axes of the outputs, from the rows alone and from two and three rows.

    The output `index` has no axis of the rows, as `--split-by` says.
    """
    axes: dict[str, int | None] = {}
    equal, unlike = True, ""
    for name, single in alone[0].items():
        shapes = [outputs[name].shape for outputs in (*alone, *together)]
        axis = None if name == index else _growing(shapes)
        axes[name] = axis
        if axis is not None:
            rows = np.concatenate([np.moveaxis(one[name], axis, 0) for one in alone])
            equal = equal and agree(np.moveaxis(together[-1][name], axis, 0), rows)
        elif (
            name == index
            or not single.size
            or not all(agree(outputs[name], single) for outputs in (*alone, *together))
        ):
            unlike = unlike or name
    return _Tried(axes, equal, unlike)


def _growing(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Return the axis that counts the rows: 1 for each row alone, then 2 and `ROWS`."""
    first = shapes[0]
    for axis in range(len(first)):
        wanted = [(*first[:axis], count, *first[axis + 1 :]) for count in (*[1] * ROWS, 2, ROWS)]
        if list(shapes) == wanted:
            return axis
    return None
