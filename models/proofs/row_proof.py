"""The checks of added files: rows are independent, and both files compute the same outputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from models.errors import AddError
from models.graphs.row_mixing import row_mixing
from models.kinds.tensor_spec import TensorSpec
from models.package.card import ParityRecord
from models.proofs.parity import BATCH_SIZES, ParityError, check_parity
from models.proofs.single_rows import SingleRows
from models.proofs.varied_rows import computable, varied_rows
from models.runtimes.runtime import Arrays, Runtime, one_line
from models.sources.importing import ForeignGraph
from models.sources.samples import LARGEST_BATCH, Samples

LARGE_ROW = 10_000
"""Rows with at least this many values are checked in smaller batches, to save time."""
ROWS_OF_OTHER_SIZES = 8
"""The number of rows that are checked at each other size."""


class RowsProof(NamedTuple):
    """The result of the check that rows are independent.

    Attributes:
        record: the largest difference between two computations of the same rows.
        mixing: why the result of a row may depend on other rows; None if it does not.
        batched: the samples, and the rows of other sizes, for which rows are independent.
        unbatched: the rows of other sizes for which this is not shown, and why.
    """

    record: ParityRecord
    mixing: str | None = None
    batched: Sequence[Arrays] = ()
    unbatched: Sequence[tuple[Arrays, str]] = ()


def prove_rows(
    graph: ForeignGraph,
    content: bytes,
    samples: Samples,
    others: Sequence[Arrays],
    outputs: Sequence[TensorSpec],
    *,
    half: float,
) -> RowsProof:
    """Check that the result of a row depends neither on other rows nor on the time.

    The graph is analyzed first (`row_mixing`). Then the samples and variations of them are computed
    alone and in batches, at each size. A network with a fixed batch size is only checked for equal
    results of equal batches, since its batches are never mixed.

    Args:
        graph: the network.
        content: the bytes of its file.
        samples: the rows to compute.
        others: the samples at other sizes (`free_sizes.other_sizes`).
        outputs: the specifications of the outputs.
        half: the tolerance of the half precision in which the network computes; else 0.

    Raises:
        AddError: a second computation of the same rows has other results.
    """
    network, mixing = graph.network, None
    if samples.fixed_batch is None:
        mixing, *mixings = row_mixing(content, [samples.rows, *others], graph.axes, graph.weights)
        alone = SingleRows(network)
        try:
            record = _prove(alone, network, samples, outputs, half=half)
            for variation in _unlike(alone, alone, samples, samples.rows):
                _prove(alone, network, variation, outputs, variation.count, half=half)
        except ParityError as error:
            mixing = mixing or str(error)
        except Exception as error:
            raise AddError(
                f"{graph.file}: it computes each row and fails on several ({one_line(error)}): "
                "export it with a dynamic batch, or with the batch size that it can compute in its "
                "shapes"
            ) from error
        if mixing is None:
            batched, unbatched = [samples.rows], []
            for rows, mixing_reason in zip(others, mixings, strict=True):
                reason = mixing_reason or _difference(network, samples, rows, outputs, half=half)
                if reason is None:
                    batched.append(rows)
                else:
                    unbatched.append((rows, reason))
            return RowsProof(record, None, batched, unbatched)
    try:
        record = _prove(network, network, samples, outputs, whole=True, half=half)
    except ParityError as error:
        raise AddError(
            f"{graph.file}: the answer differs when the same rows are computed again ({error}): "
            "export the network in evaluation mode, without dropout or random numbers"
        ) from error
    return RowsProof(record, mixing)


def rewriting(
    graph: ForeignGraph,
    content: bytes,
    few: Arrays,
    samples: Samples,
    outputs: Sequence[TensorSpec],
    *,
    half: float,
) -> str | None:
    """Return how the optimized graph differs from the graph as it is written; None if it does not.

    Args:
        graph: the network, which ONNX Runtime has optimized.
        content: the bytes of its file.
        few: some of the samples.
        samples: the samples.
        outputs: the specifications of the outputs.
        half: the tolerance of the half precision in which the network computes; else 0.
    """
    few_samples = replace(samples, rows=few)
    try:
        unoptimized = SingleRows(graph.opened(content, optimized=False))
        optimized = SingleRows(graph.network)
        varied = [*_unlike(unoptimized, optimized, samples, few)]
        given = (
            [] if varied and _is_slow(samples) else [few_samples]
        )  # some of the varied are given
        for variation in (*given, *varied):
            _prove(
                unoptimized,
                optimized,
                variation,
                outputs,
                variation.count,
                whole=True,
                half=half,
            )
    except ParityError as error:
        return str(error)
    except Exception:  # noqa: BLE001 - some graphs are computed after optimization only
        return None
    return None


def _difference(
    network: Runtime, samples: Samples, rows: Arrays, outputs: Sequence[TensorSpec], *, half: float
) -> str | None:
    """Return how the results of rows of another size depend on other rows; None if they do not."""
    alone = SingleRows(network)
    try:
        for variation in _unlike(alone, alone, samples, rows):
            _prove(alone, network, variation, outputs, variation.count, half=half)
    except ParityError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - after any error, this size is not shown
        return f"it computes each row and fails on several ({one_line(error)})"
    return None


def prove_equal(
    graph: ForeignGraph,
    file: str,
    module: Runtime,
    samples: Samples,
    others: Sequence[Arrays],
    outputs: Sequence[TensorSpec],
    *,
    batched: Sequence[Arrays],
    half: float,
) -> tuple[ParityRecord, ...]:
    """Check each file against the other.

    Args:
        graph: the network as ONNX.
        file: the name of the TorchScript file, for errors.
        module: the network as TorchScript.
        samples: the rows to compute, with variations of them.
        others: the samples at other sizes.
        outputs: the specifications of the outputs.
        batched: those of the samples and others for which rows are independent.
        half: the tolerance of the half precision in which the network computes; else 0.

    Raises:
        AddError: the files do not compute the same.
    """

    def is_whole(rows: Arrays) -> bool:
        return not any(rows is batched_rows for batched_rows in batched)

    whole = is_whole(samples.rows)
    network, script = SingleRows(graph.network), SingleRows(module)
    try:
        records = (
            _prove(script, network, samples, outputs, whole=whole, half=half),
            _prove(network, script, samples, outputs, whole=whole, half=half),
        )
        for rows in (samples.rows, *others):
            whole = is_whole(rows)
            for variation in _unlike(network, script, samples, rows):
                _prove(
                    network,
                    script,
                    variation,
                    outputs,
                    variation.count,
                    whole=whole,
                    half=half,
                )
    except ParityError as error:
        raise AddError(
            f"{file}: its answers are not those of {graph.file} ({error}): "
            "export both from one network, in evaluation mode; a module that is traced has the "
            "sizes of its example: use torch.jit.script for one that takes others"
        ) from error
    except Exception as error:
        raise AddError(
            f"{file}: it fails on what {graph.file} computes ({one_line(error)}): "
            "export both from one network, with the same outputs in the same order, for the same "
            "sizes"
        ) from error
    return records


def prove_largest(
    graph: ForeignGraph,
    candidates: Mapping[str, Runtime],
    samples: Samples,
    outputs: Sequence[TensorSpec],
    *,
    half: float,
) -> None:
    """Check that each candidate computes one request at the largest sizes as the graph does.

    Args:
        graph: the network.
        candidates: the network again, and other files of it, by the names of the files.
        samples: rows of the largest sizes, as many as the network takes at a time.
        outputs: the specifications of the outputs.
        half: the tolerance of the half precision in which the network computes; else 0.

    Raises:
        AddError: the results differ, or a candidate fails.
    """
    shapes = ", ".join(f"{list(array.shape)} of {name}" for name, array in samples.rows.items())
    for file, candidate in candidates.items():
        try:
            _prove(graph.network, candidate, samples, outputs, whole=True, half=half)
        except ParityError as error:
            reason = f"the answers are not those of {graph.file} ({error})"
        except Exception as error:  # noqa: BLE001 - any error means that the size is not proved
            reason = f"it fails on what {graph.file} computes ({one_line(error)})"
        else:
            continue
        raise AddError(
            f"{file}: for {shapes}, {reason}: give a smaller size with --max-length, or files that "
            "are equal at this one"
        )


def _unlike(
    network: SingleRows, other: SingleRows, samples: Samples, rows: Arrays
) -> Iterator[Samples]:
    """Yield variations of the rows that both networks compute; for a fixed batch, the rows."""
    if samples.fixed_batch is not None:
        if rows is not samples.rows:
            yield replace(samples, rows=rows, real=False)
        return
    count = ROWS_OF_OTHER_SIZES
    if rows is samples.rows:
        most = LARGEST_BATCH if samples.row_size < LARGE_ROW else BATCH_SIZES[-1]
        count = min(most, samples.largest_check)
    varied = computable(network, varied_rows(rows, count, samples.signed, samples.shared))
    if other is not network:
        varied = computable(other, varied)
    if len(next(iter(varied.values()))) > 1:
        yield replace(samples, rows=varied, real=False)


def _prove(
    reference: Runtime | SingleRows,
    candidate: Runtime | SingleRows,
    samples: Samples,
    outputs: Sequence[TensorSpec],
    largest: int = BATCH_SIZES[-1],
    *,
    whole: bool = False,
    half: float,
) -> ParityRecord:
    """Check the candidate against the reference, which computes single rows unless `whole`.

    Of a network that takes long, the candidate computes one batch, and single rows if they are not
    those of the reference.
    """
    if samples.apart and samples.count > 1:
        parts = (replace(samples, rows=part) for part in samples.smallest)
        return joined(
            [
                _prove(reference, candidate, part, outputs, largest, whole=whole, half=half)
                for part in parts
            ]
        )
    runtime = candidate.network if isinstance(candidate, SingleRows) else candidate
    same = isinstance(reference, SingleRows) and reference.network is runtime
    few = (samples.count,) if same and not whole else (1, samples.count)
    tried = few if _is_slow(samples) else (*BATCH_SIZES, largest)
    sizes = sorted({samples.fixed_batch or min(size, samples.count) for size in tried})
    return check_parity(
        reference,
        candidate,
        samples.rows,
        runtime=runtime.name,
        classification=is_classification(outputs),
        batch_sizes=sizes,
        reference_batch=None if whole else 1,
        half=half,
        same=same or reference is candidate,
    )


def _is_slow(samples: Samples) -> bool:
    """Return whether a row takes so long that few are computed."""
    return samples.largest_check < LARGEST_BATCH


def joined(records: Sequence[ParityRecord]) -> ParityRecord:
    """Return the record of all rows, from one of each row."""
    return records[0].model_copy(
        update={
            "samples": sum(record.samples for record in records),
            "largest_absolute_difference": max(
                record.largest_absolute_difference for record in records
            ),
            "largest_relative_difference": max(
                record.largest_relative_difference for record in records
            ),
            "equal_answers": min(record.equal_answers for record in records),
        }
    )


def is_classification(outputs: Sequence[TensorSpec]) -> bool:
    """Return whether all outputs of floating-point numbers are probabilities."""
    floats = [spec for spec in outputs if spec.dtype.kind == "f"]
    return bool(floats) and all(spec.is_probabilities for spec in floats)
