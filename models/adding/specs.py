"""The specifications of an added graph's inputs and outputs, as stated and as computed."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.adding.sample_answers import Answers
from models.errors import AddError
from models.kinds.tensor_spec import TensorSpec
from models.proofs.parity import ABSOLUTE_TOLERANCE
from models.runtimes.runtime import Arrays, DeclaredTensor
from models.sources.importing import ForeignGraph, datatype_of


def input_specs(
    graph: ForeignGraph, arrays: dict[str, NDArray[Any]] | None = None
) -> tuple[TensorSpec, ...]:
    """Return the inputs that the graph states. Shapes that it does not state are those of the rows.

    Raises:
        AddError: the names of the rows are not those of the inputs, or a shape is unknown.
    """
    declared = graph.network.inputs
    names = [tensor.name for tensor in declared]
    if arrays is not None and set(arrays) != set(names):
        raise AddError(
            f"the sample holds {', '.join(arrays) or 'nothing'}, and {graph.file} takes "
            f"{', '.join(names)}: give one array for each input, under its name"
        )
    specs = []
    for tensor in declared:
        shape = tensor.shape or (arrays or {}).get(tensor.name, np.empty(())).shape
        if not shape:
            raise AddError(
                f"{graph.file}: the graph states no shape for the input {tensor.name}: export it "
                "with its shape, or give rows with --sample FILE.npz"
            )
        inner = (size if isinstance(size, int) else -1 for size in shape[1:])
        specs.append(
            TensorSpec(
                name=tensor.name,
                datatype=datatype_of(graph.file, "input", tensor),
                shape=(graph.batch, *inner),
                meaning="not stated",
            )
        )
    return tuple(specs)


def output_specs(
    graph: ForeignGraph,
    answers: Answers,
    inputs: Sequence[TensorSpec],
    labels: Sequence[str],
) -> tuple[TensorSpec, ...]:
    """Return the outputs as they were computed.

    Args:
        graph: the graph.
        answers: the outputs for all samples.
        inputs: the specifications of the inputs.
        labels: the classes. They label every output of floating-point numbers with as many columns;
            if there is none, every such output of whole numbers, as in quantized networks.

    Raises:
        AddError: the datatype of an output cannot be served, or the labels fit no output.
    """
    free = any(-1 in spec.shape[1:] for spec in inputs)
    results = answers.outputs
    labelled = _labelled(results, len(labels)) if labels else ()
    outputs = tuple(
        _output_spec(
            graph,
            tensor,
            results[tensor.name],
            _free_axes(graph, tensor.name, answers, has_free=free),
            labels if tensor.name in labelled else (),
        )
        for tensor in graph.network.outputs
    )
    if labels and not any(spec.labels for spec in outputs):
        listed = ", ".join(f"{spec.name} {spec.to_text()}" for spec in outputs)
        raise AddError(
            f"{graph.file}: {len(labels)} labels fit no output ({listed}): "
            "give one --label for each column of the output that tells the classes, whose number "
            "the graph must state"
        )
    return outputs


def _free_axes(
    graph: ForeignGraph, name: str, answers: Answers, *, has_free: bool
) -> Collection[int]:
    """Return the axes of an output that may have any size, unless the graph states one."""
    if has_free or name in graph.sized:
        return range(1, answers.outputs[name].ndim)
    return answers.varying[name]


def _output_spec(
    graph: ForeignGraph,
    tensor: DeclaredTensor,
    results: NDArray[Any],
    free: Collection[int],
    labels: Sequence[str],
) -> TensorSpec:
    """Return the specification of an output, with its computed shape and its labels.

    The axes `free` are of any size, unless the graph states one.
    """
    shape = results.shape
    stated = tensor.shape[1:] if len(tensor.shape) == len(shape) else (None,) * (len(shape) - 1)
    inner = [
        -1 if axis in free and not isinstance(declared_size, int) else size
        for axis, (declared_size, size) in enumerate(zip(stated, shape[1:], strict=True), start=1)
    ]
    columns = results.shape[-1] if results.ndim > 1 and results.dtype.kind == "f" else 0
    probabilities = columns > 1 and results.size > 0 and _are_probabilities(results)
    return TensorSpec(
        name=tensor.name,
        datatype=datatype_of(graph.file, "output", tensor),
        shape=(graph.batch, *inner),
        meaning="of each class; a row sums to 1" if probabilities else "not stated",
        minimum=0 if probabilities else None,
        maximum=1 if probabilities else None,
        labels=tuple(labels) if labels and inner[-1] != -1 else None,
    )


def _labelled(results: Arrays, count: int) -> set[str]:
    """Return the outputs whose last dimension has `count` columns."""
    for kinds in ("f", "iu"):
        names = {
            name
            for name, array in results.items()
            if array.ndim > 1 and array.dtype.kind in kinds and array.shape[-1] == count
        }
        if names:
            return names
    return set()


def _are_probabilities(results: NDArray[Any]) -> bool:
    """Return whether the last dimension holds numbers from 0 to 1 that sum to 1."""
    sums = results.astype(np.float64).sum(axis=-1)
    within = results.min() >= 0 and results.max() <= 1 + ABSOLUTE_TOLERANCE
    return bool(within and np.allclose(sums, 1, atol=1e-3))
