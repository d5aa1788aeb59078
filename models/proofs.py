"""The proofs of added files: each row is computed for itself, and both files compute the same."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from models.card import ParityRecord, TensorSpec
from models.foreign import AddError, ForeignGraph
from models.free_sizes import answered_together
from models.parity import BATCH_SIZES, ParityError, prove
from models.row_mixing import row_mixing
from models.runtimes import Arrays, Runtime, brief
from models.samples import Samples
from models.varied_rows import computable, varied_rows

LARGEST_BATCH = 256
"""The rows of the largest batch that is served, unless a setting says otherwise."""
LARGE_ROW = 10_000
"""Rows with so many numbers are proved at smaller batches, since those of 256 take too long."""
ROWS_OF_OTHER_SIZES = 16
"""So many rows of each other size are tried."""


class RowsProof(NamedTuple):
    """What is known of the rows of a network.

    Attributes:
        record: how far its answers were from those to the same rows, computed again.
        mixing: why a row's answer may depend on the rows beside it; None where it does not.
    """

    record: ParityRecord
    mixing: str | None


def prove_rows(
    graph: ForeignGraph,
    content: bytes,
    samples: Samples,
    others: Sequence[Arrays],
    outputs: Sequence[TensorSpec],
) -> RowsProof:
    """The proof that a row's answer does not depend on its neighbours, or on when it is asked.

    It is read off the graph, and tried on the samples and on rows unlike them. A network that
    computes one size of batch alone is tried for whole batches: its batches are never mixed.

    Args:
        graph: the network.
        content: its file.
        samples: the rows to try.
        others: the same at other sizes (`free_sizes.other_sizes`).
        outputs: of the network.

    Raises:
        AddError: the same rows get other answers when they are computed again.
    """
    mixing = None
    if samples.fixed_batch is None:
        for rows in (samples.rows, *others):
            mixing = mixing or row_mixing(content, rows)
        mixing = mixing or answered_together(graph.network, graph.network.inputs, samples.rows)
        try:
            record = _prove(graph.network, graph.network, samples, outputs)
            for tried in _further(graph.network, graph.network, samples, others):
                _prove(graph.network, graph.network, tried, outputs, tried.count)
        except ParityError as error:
            mixing = mixing or str(error)
        except Exception as error:
            raise AddError(
                f"{graph.file}: it computes each row and fails on several ({brief(error)}): export "
                "it with a dynamic batch, or with the batch size that it can compute in its shapes"
            ) from error
        if mixing is None:
            return RowsProof(record, None)
    try:
        return RowsProof(_prove(graph.network, graph.network, samples, outputs, whole=True), mixing)
    except ParityError as error:
        raise AddError(
            f"{graph.file}: the answer differs when the same rows are computed again ({error}): "
            "export the network in evaluation mode, without dropout or random numbers"
        ) from error


def prove_equal(
    graph: ForeignGraph,
    file: str,
    module: Runtime,
    samples: Samples,
    others: Sequence[Arrays],
    outputs: Sequence[TensorSpec],
    *,
    whole: bool,
) -> tuple[ParityRecord, ...]:
    """The proofs of each file against the other.

    Args:
        graph: the network as ONNX.
        file: the name of the TorchScript file, for errors.
        module: the network as TorchScript.
        samples: the rows to try; others unlike them are tried too.
        others: the samples at other sizes.
        outputs: of both.
        whole: whether the rows of a batch depend on each other.

    Raises:
        AddError: the files do not compute the same.
    """
    try:
        records = (
            _prove(module, graph.network, samples, outputs, whole=whole),
            _prove(graph.network, module, samples, outputs, whole=whole),
        )
        for tried in _further(graph.network, module, samples, others):
            _prove(graph.network, module, tried, outputs, tried.count, whole=whole)
    except ParityError as error:
        raise AddError(
            f"{file}: its answers are not those of {graph.file} ({error}): "
            "export both from one network, in evaluation mode; a module that is traced has the "
            "sizes of its example: use torch.jit.script for one that takes others"
        ) from error
    except Exception as error:
        raise AddError(
            f"{file}: it fails on what {graph.file} computes ({brief(error)}): "
            "export both from one network, with the same outputs in the same order, for the same "
            "sizes"
        ) from error
    return records


def _further(
    network: Runtime, other: Runtime, samples: Samples, others: Sequence[Arrays]
) -> Iterator[Samples]:
    """Rows unlike the samples, and at other sizes, that both compute, each row alone."""
    if samples.fixed_batch is not None:
        yield from (Samples(rows, False, samples.fixed_batch) for rows in others)
        return
    count = LARGEST_BATCH if samples.row_size < LARGE_ROW else BATCH_SIZES[-1]
    for rows, most in ((samples.rows, count), *((rows, ROWS_OF_OTHER_SIZES) for rows in others)):
        varied = computable(network, varied_rows(rows, most, samples.signed))
        if other is not network:
            varied = computable(other, varied)
        if len(next(iter(varied.values()))) > 1:
            yield Samples(varied, False, None)


def _prove(
    reference: Runtime,
    candidate: Runtime,
    samples: Samples,
    outputs: Sequence[TensorSpec],
    largest: int = BATCH_SIZES[-1],
    *,
    whole: bool = False,
) -> ParityRecord:
    """That the candidate's answers are the reference's; of single rows, unless `whole`."""
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
        reference_batch=None if whole else 1,
    )
