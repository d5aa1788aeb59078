"""The outputs of an added graph for its samples, each computed alone, and again."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.errors import AddError
from models.proofs.parity import BATCH_SIZES, agree
from models.runtimes.differences import is_finite
from models.runtimes.runtime import Arrays, one_line
from models.sources.importing import ForeignGraph
from models.sources.samples import Samples

REPEATED = 8
"""The number of rows that are computed twice: dropout may leave a single row unchanged."""


@dataclass(frozen=True)
class Answers:
    """The outputs of the samples, with the rows first.

    Attributes:
        outputs: of all rows; of the first one where the sizes differ from row to row.
        varying: the axes whose sizes differ, by output.
    """

    outputs: Arrays
    varying: Mapping[str, frozenset[int]]


def compute_answers(graph: ForeignGraph, samples: Samples) -> Answers:
    """Compute all rows, each alone if the batch size is not fixed.

    Raises:
        AddError: the network fails, its outputs are not one for each row, or they are not the same
            each time.
    """
    parts = samples.smallest
    _require_rows(graph, samples, parts[0])
    answers = [_run(graph, samples, part) for part in parts]
    repeated = [graph.network(part) for part in parts[:REPEATED]]
    outputs, varying = {}, {}
    for name in repeated[0]:
        shapes = {answer[name].shape for answer in answers}
        if len(shapes) > 1 and not (
            graph.axes.outputs[name] is None and len({len(shape) for shape in shapes}) == 1
        ):
            raise AddError(
                f"{graph.file}: the shape of the output {name} differs from row to row: "
                "leave it out, or pad it to one shape"
            )
        if not all(map(agree, (one[name] for one in repeated), (one[name] for one in answers))):
            raise AddError(
                f"{graph.file}: the output {name} differs when the same row is computed again: "
                "export the network in evaluation mode, without dropout or random numbers"
            )
        differing = frozenset(
            axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1
        )
        varying[name] = differing
        outputs[name] = (
            answers[0][name] if differing else np.concatenate([answer[name] for answer in answers])
        )
    return Answers(outputs, varying)


def _require_rows(graph: ForeignGraph, samples: Samples, first: Arrays) -> None:
    """Check that every output has one row for each row of the smallest batch, and of a larger one.

    Raises:
        AddError: an output does not.
    """
    batch, size = _run(graph, samples, first), graph.fixed_batch
    alone = batch
    if size is None:
        size = BATCH_SIZES[1]
        try:
            batch = graph.network({name: row.repeat(size, axis=0) for name, row in first.items()})
        except Exception as error:
            raise AddError(
                f"{graph.file}: it computes one row and fails on {size} ({one_line(error)}): "
                "export it with a dynamic batch, or with the batch size that it can compute in its "
                "shapes"
            ) from error
    for name, array in batch.items():
        if array.ndim == 0 or len(array) != size:
            raise AddError(
                f"{graph.file}: the output {name} is {list(array.shape)} for a batch of {size}: "
                "export it with the batch as the first dimension of every output"
            )
        is_empty = 0 in array.shape and name not in graph.sized
        if is_empty and all(rows.size for rows in samples.rows.values()):
            raise AddError(
                f"{graph.file}: the output {name} is {list(array.shape[1:])} for each row, which "
                "holds no number: export it without"
            )
        if graph.fixed_batch is None and alone[name].shape != (1, *array.shape[1:]):
            raise AddError(
                f"{graph.file}: the output {name} is {list(alone[name].shape)} for one row and "
                f"{list(array.shape)} for {size}: export it with the batch as the first dimension "
                "of every output, also where that is 1"
            )


def _run(graph: ForeignGraph, samples: Samples, rows: Arrays) -> Arrays:
    """Return the outputs of samples.

    Raises:
        AddError: the network fails, or an output is not finite.
    """
    try:
        answer = graph.network(rows)
        for name, array in answer.items():
            if not is_finite(array):
                raise ValueError(f"the output {name} is infinite or NaN")
    except Exception as error:
        if samples.real:
            tried, advice = "the sample", "give rows that it can compute"
        else:
            is_text = any(array.dtype == object for array in rows.values())
            tried = "made-up texts" if is_text else "random numbers"
            advice = "give real rows with --sample FILE.npz" + (
                "" if is_text else ", or the values that it takes with --range INPUT=LOW:HIGH"
            )
        reason = f"it fails on {tried} ({one_line(error)})"
        raise AddError(f"{graph.file}: {reason}: {advice}") from error
    return answer
