"""The check of a graph against what the network itself computed in its own library."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from models.errors import AddError
from models.kinds.tensor_spec import TensorSpec
from models.package.card import ParityRecord
from models.proofs.parity import ParityError, check_parity, in_batches
from models.proofs.row_proof import is_classification, joined
from models.runtimes.runtime import Arrays
from models.sources.importing import ForeignGraph
from models.sources.source import Record

OTHER_ROWS = 1e-2
"""The relative tolerance for rows unlike the sample: rounding may grow there, and the check is for
another way through the network, whose answers are far from these."""


class _Recorded:
    """Answers as a function; it is called once, with all samples."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def __call__(self, _: Arrays) -> Arrays:
        return self._record.answers


def prove_answers(
    graph: ForeignGraph, records: Sequence[Record], outputs: Sequence[TensorSpec], *, half: float
) -> tuple[ParityRecord, ...]:
    """Check the graph against the network itself on the samples.

    Args:
        graph: the network as ONNX.
        records: the samples and the answers of the network, of some outputs at least; may be
            empty.
        outputs: the specifications of the outputs.
        half: the tolerance of the half precision in which the network computes; else 0.

    Raises:
        AddError: the graph computes something else, or has other outputs.
    """
    for record in records:
        names = [tensor.name for tensor in graph.network.outputs]
        if unknown := set(record.answers).difference(names):
            raise AddError(
                f"{graph.file}: its outputs are {', '.join(names)}, and the network has the output "
                f"{min(unknown)}: export the network again"
            )
    try:
        return tuple(_compared(graph, record, outputs, half=half) for record in records)
    except ParityError as error:
        raise AddError(
            f"{graph.file}: its answers are not those of the network itself ({error}): the "
            "exporter has changed the network; report it to the exporter, or write the step "
            "in another way"
        ) from error


def prove_further_answers(
    graph: ForeignGraph,
    records: Sequence[Record],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    half: float,
) -> tuple[ParityRecord, ...]:
    """Check the graph against the network itself on rows unlike the samples.

    Rows that no request may hold are left out, and those on which the graph fails: a request with
    such rows gets an error.

    Args:
        graph: the network as ONNX.
        records: such rows, and the answers of the network.
        inputs: the specifications of the inputs, with their ranges and largest sizes.
        outputs: the specifications of the outputs.
        half: the tolerance of the half precision in which the network computes; else 0.

    Returns:
        The record of all rows together; empty without rows.

    Raises:
        AddError: the graph computes something else.
    """
    found: list[ParityRecord] = []
    for record in records:
        if not all(_takes(spec, record.samples[spec.name]) for spec in inputs):
            continue
        try:
            tolerance = max(half, OTHER_ROWS)
            found.append(_compared(graph, record, outputs, half=tolerance))
        except ParityError as error:
            rows = ", ".join(f"{name} {[*array.shape]}" for name, array in record.samples.items())
            raise AddError(
                f"{graph.file}: for other rows than the sample's ({rows}), its answers are not "
                f"those of the network itself ({error}): an `if` on the number of rows or on a "
                "size has one way only in an export, and some operators hold for positive numbers "
                "only: write that step with torch.where; for larger sizes, give --max-length"
            ) from error
        except Exception:  # noqa: BLE001, S112 - such a request is not answered
            continue
    return (joined(found),) if found else ()


def _compared(
    graph: ForeignGraph, record: Record, outputs: Sequence[TensorSpec], *, half: float
) -> ParityRecord:
    count = len(next(iter(record.samples.values())))
    size = count if graph.batch == -1 else graph.batch
    return check_parity(
        _Recorded(record),
        partial(in_batches, graph.network, rows=count, size=size),
        record.samples,
        runtime="onnx",
        classification=is_classification(outputs),
        batch_sizes=[count],
        reference_batch=None,
        half=half,
    )


def _takes(spec: TensorSpec, rows: NDArray[Any]) -> bool:
    """Return whether a request may hold these rows."""
    largest = spec.max_shape or rows.shape
    if any(size > most for size, most in zip(rows.shape[1:], largest[1:], strict=True)):
        return False
    return not spec.enforced or spec.first_outside(rows) is None
