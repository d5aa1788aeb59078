"""The proofs of added files: each row is computed for itself, and both files compute the same."""

from collections.abc import Sequence

from models.card import ParityRecord, TensorSpec
from models.foreign import AddError, ForeignGraph
from models.parity import BATCH_SIZES, ParityError, prove
from models.runtimes import Runtime, brief
from models.samples import Samples
from models.varied_rows import computable, varied_rows

LARGEST_BATCH = 256
"""The rows of the largest batch that is served, unless a setting says otherwise."""
LARGE_ROW = 10_000
"""Rows with so many numbers are proved at smaller batches, since those of 256 take too long."""


def prove_rows(
    graph: ForeignGraph, samples: Samples, outputs: Sequence[TensorSpec]
) -> tuple[ParityRecord, ...]:
    """The proof that a row's answer does not depend on its neighbours, or on when it is asked."""
    try:
        record = _prove(graph.network, graph.network, samples, outputs)
        if samples.fixed_batch is None:
            count = LARGEST_BATCH if samples.row_size < LARGE_ROW else BATCH_SIZES[-1]
            varied = computable(graph.network, varied_rows(samples.rows, count))
            if len(next(iter(varied.values()))) > 1:
                _prove(graph.network, graph.network, Samples(varied, False, None), outputs, count)
        return (record,)
    except ParityError as error:
        raise AddError(
            f"{graph.file}: the answer to a row depends on the rows beside it ({error}): "
            "export the network in evaluation mode, and such that each row is computed for itself"
        ) from error


def prove_equal(
    graph: ForeignGraph,
    file: str,
    module: Runtime,
    samples: Samples,
    outputs: Sequence[TensorSpec],
) -> tuple[ParityRecord, ...]:
    """The proofs of each file against the other."""
    try:
        return (
            _prove(module, graph.network, samples, outputs),
            _prove(graph.network, module, samples, outputs),
        )
    except ParityError as error:
        raise AddError(
            f"{file}: its answers are not those of {graph.file} ({error}): "
            "export both from one network, in evaluation mode"
        ) from error
    except Exception as error:
        raise AddError(
            f"{file}: it fails on what {graph.file} computes ({brief(error)}): "
            "export both from one network, with the same outputs in the same order"
        ) from error


def _prove(
    reference: Runtime,
    candidate: Runtime,
    samples: Samples,
    outputs: Sequence[TensorSpec],
    largest: int = BATCH_SIZES[-1],
) -> ParityRecord:
    floats = [spec for spec in outputs if spec.dtype.kind == "f"]
    sizes = sorted(
        {samples.fixed_batch or min(size, samples.count) for size in (*BATCH_SIZES, largest)}
    )
    return prove(
        reference,
        candidate,
        samples.rows,
        runtime=candidate.name,
        classification=bool(floats) and all(spec.is_probabilities for spec in floats),
        batch_sizes=sizes,
        reference_batch=samples.fixed_batch or 1,
    )
