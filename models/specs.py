"""The inputs and outputs of an added graph: what it states of them, and what running it showed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import TensorSpec
from models.foreign import AddError, ForeignGraph, datatype_of
from models.parity import ABSOLUTE_TOLERANCE
from models.runtimes import Arrays, DeclaredTensor


def input_specs(
    graph: ForeignGraph, arrays: dict[str, NDArray[Any]] | None = None
) -> tuple[TensorSpec, ...]:
    """The inputs that the graph states; where it states no shape, that of the given rows.

    Raises:
        AddError: the rows are not those of the inputs, or no shape is known.
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
                f"{graph.file}: the graph states no shape for the input {tensor.name}, or that of "
                "a single value: make a single value a constant, or an input of shape [batch, 1]; "
                "else export it with its shape, whose first dimension is the batch, or give rows "
                "with --sample FILE.npz"
            )
        inner = (size if isinstance(size, int) else -1 for size in shape[1:])
        specs.append(
            TensorSpec(
                name=tensor.name,
                datatype=datatype_of(graph.file, "input", tensor),
                shape=(graph.fixed_batch or -1, *inner),
                meaning="not stated",
            )
        )
    return tuple(specs)


def output_specs(
    graph: ForeignGraph,
    answers: Arrays,
    inputs: Sequence[TensorSpec],
    labels: Sequence[str],
) -> tuple[TensorSpec, ...]:
    """The outputs as they were answered.

    Args:
        graph: whose outputs they are.
        answers: by output name, to all samples.
        inputs: of the graph.
        labels: the classes, for every output with as many columns: those of floating-point numbers,
            or, where none has as many, of whole numbers, as quantized networks give.

    Raises:
        AddError: an output is of a datatype that is not served, or the labels fit none.
    """
    free = any(-1 in spec.shape[1:] for spec in inputs)
    labelled = _labelled(answers, len(labels)) if labels else ()
    outputs = tuple(
        _output_spec(
            graph, tensor, answers[tensor.name], free, labels if tensor.name in labelled else ()
        )
        for tensor in graph.network.outputs
    )
    if labels and not any(spec.labels for spec in outputs):
        found = ", ".join(f"{spec.name} {spec.describe()}" for spec in outputs)
        raise AddError(
            f"{graph.file}: {len(labels)} labels fit no output ({found}): "
            "give one --label for each column of the output that tells the classes, whose number "
            "the graph must state"
        )
    return outputs


def _output_spec(
    graph: ForeignGraph,
    tensor: DeclaredTensor,
    answers: NDArray[Any],
    free: bool,
    labels: Sequence[str],
) -> TensorSpec:
    """What running showed, and its labels. Where an input has a free dimension, it stays free."""
    found = answers.shape
    stated = tensor.shape[1:] if len(tensor.shape) == len(found) else (None,) * (len(found) - 1)
    inner = [
        -1 if free and not isinstance(said, int) else size
        for said, size in zip(stated, found[1:], strict=True)
    ]
    columns = answers.shape[-1] if answers.ndim > 1 and answers.dtype.kind == "f" else 0
    probabilities = columns > 1 and answers.size > 0 and _are_probabilities(answers)
    return TensorSpec(
        name=tensor.name,
        datatype=datatype_of(graph.file, "output", tensor),
        shape=(graph.fixed_batch or -1, *inner),
        meaning="of each class; a row sums to 1" if probabilities else "not stated",
        minimum=0 if probabilities else None,
        maximum=1 if probabilities else None,
        labels=tuple(labels) if labels and inner[-1] != -1 else None,
    )


def _labelled(answers: Arrays, count: int) -> set[str]:
    """The outputs whose last dimension are so many classes."""
    for kinds in ("f", "iu"):
        found = {
            name
            for name, array in answers.items()
            if array.ndim > 1 and array.dtype.kind in kinds and array.shape[-1] == count
        }
        if found:
            return found
    return set()


def _are_probabilities(answers: NDArray[Any]) -> bool:
    """Whether the last dimension holds numbers from 0 to 1 that sum to 1."""
    sums = answers.astype(np.float64).sum(axis=-1)
    within = answers.min() >= 0 and answers.max() <= 1 + ABSOLUTE_TOLERANCE
    return bool(within and np.allclose(sums, 1, atol=1e-3))
