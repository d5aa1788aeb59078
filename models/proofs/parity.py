"""The parity check: an exported file computes the same outputs as its network."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.package.card import ParityRecord, RuntimeName
from models.runtimes.differences import HALF_PRECISION, excess, relative_difference, tolerated
from models.runtimes.runtime import Arrays

BATCH_SIZES = (1, 7, 64)
ABSOLUTE_TOLERANCE = 1e-5
"""For probabilities: the largest |difference| divided by the largest probability."""
RELATIVE_TOLERANCE = 1e-4
"""For other numbers: the largest |difference| divided by the magnitude (`relative_difference`)."""


TIE = 4 * float(np.finfo(np.float32).eps)
"""The rounding of a sum of probabilities, relative to the largest."""


class ParityError(Exception):
    """A file that differs from its network. The message has the runtime, sample and difference."""


def check_parity(
    reference: Callable[[Arrays], Arrays],
    candidate: Callable[[Arrays], Arrays],
    samples: Arrays,
    *,
    runtime: RuntimeName,
    classification: bool,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    reference_batch: int | None = 1,
    half: float = 0.0,
    same: bool = False,
) -> ParityRecord:
    """Check that `candidate` equals `reference` on `samples`, at each batch size.

    By default, the reference computes every row alone. If the candidate's outputs at each batch
    size are within the tolerance, the file equals the network, and the output of a row does not
    depend on the other rows of its batch.

    Args:
        reference: the network in eager mode.
        candidate: the exported file in its runtime.
        samples: inputs by name, all with the same number of rows.
        runtime: the name of the candidate's runtime, for the record.
        classification: whether the outputs are probabilities (one tolerance for all numbers, and
            the same class for every sample, if no two are equally probable) or other numbers (a
            tolerance relative to the magnitude of each column). Whole numbers, truth values and
            texts must be equal in both cases.
        batch_sizes: the batch sizes of the candidate.
        reference_batch: the batch size of the reference; None for the candidate's. A size above 1
            does not show that rows are independent.
        half: the tolerance of the half precision in which the network computes, even if its outputs
            are FP32 (`models.graphs.half_precision`); 0 if it does not.
        same: whether both are one network in one runtime, which must round in one way.

    Raises:
        ParityError: a difference exceeds the tolerance, or a class, whole number, text, shape or
            dtype differs.
    """
    rows = len(next(iter(samples.values())))
    expected: Arrays = {}
    tolerance = max(ABSOLUTE_TOLERANCE if classification else RELATIVE_TOLERANCE, half)
    absolute = relative = 0.0
    equal_answers = 1.0
    for size in batch_sizes:
        if reference_batch is None or not expected:
            expected = in_batches(reference, samples, rows, reference_batch or size)
        computed = in_batches(candidate, samples, rows, size)
        for name, expected_output in expected.items():
            output = computed[name]
            location = f"{runtime}, batch size {size}, output {name}"
            if output.shape != expected_output.shape or output.dtype != expected_output.dtype:
                raise ParityError(
                    f"{location}: {output.dtype} {list(output.shape)} where the network gives "
                    f"{expected_output.dtype} {list(expected_output.shape)}"
                )
            if (
                not expected_output.size
            ):  # for example, the cache of a decoder before its first token
                continue
            if not np.issubdtype(expected_output.dtype, np.floating):
                equal = (output == expected_output).reshape(rows, -1).all(axis=1)
                if not equal.all():
                    kind = "text" if output.dtype == object else "whole number"
                    raise ParityError(
                        f"{location}: sample {int(np.argmin(equal))} has another {kind}"
                    )
                continue
            measured = relative_difference(output, expected_output, probabilities=classification)
            difference = np.abs(output.astype(np.float64) - expected_output)
            worst = int(np.unravel_index(np.argmax(measured), measured.shape)[0])
            if differs := excess(
                measured, tolerance, expected_output.dtype, same=same or candidate is reference
            ):
                raise ParityError(f"{location}: sample {worst} differs {differs}")
            if classification:
                is_fp16 = expected_output.dtype == np.float16
                tie = max(half, HALF_PRECISION if is_fp16 else TIE)
                equal_classes = output.argmax(axis=-1) == expected_output.argmax(axis=-1)
                accepted = equal_classes | _tied(output, expected_output, tie)
                if not accepted.all():
                    differing = int(np.argmin(accepted.reshape(rows, -1).all(axis=1)))
                    raise ParityError(f"{location}: sample {differing} has another class")
                equal_answers = min(equal_answers, float(equal_classes.mean()))
            absolute = max(absolute, float(difference.max()))
            relative = max(relative, float(measured.max()))
    kind = "absolute" if classification else "relative"
    return ParityRecord(
        runtime=runtime,
        samples=rows,
        batch_sizes=tuple(batch_sizes),
        largest_absolute_difference=absolute,
        largest_relative_difference=relative,
        equal_answers=equal_answers,
        tolerance=f"{tolerance:g} {kind}",
    )


def _tied(output: NDArray[Any], expected: NDArray[Any], tolerance: float) -> NDArray[np.bool_]:
    """Return whether both classes are equally probable up to rounding, as in a forest.

    In half precision, they may differ by the tolerance.
    """
    chosen = np.take_along_axis(expected, output.argmax(axis=-1, keepdims=True), axis=-1)[..., 0]
    tied: NDArray[np.bool_] = expected.max(axis=-1) - chosen <= 2 * tolerance * expected.max()
    return tied


def agree(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Return whether two computations of the same rows have the same shape and numbers."""
    if found.shape != wanted.shape:
        return False
    if wanted.dtype.kind != "f":
        return np.array_equal(found, wanted)
    if not wanted.size:
        return True
    difference = relative_difference(np.atleast_1d(found), np.atleast_1d(wanted))
    return bool(difference.max() <= tolerated(RELATIVE_TOLERANCE, wanted.dtype))


def in_batches(
    compute: Callable[[Arrays], Arrays], samples: Arrays, rows: int, size: int
) -> dict[str, NDArray[Any]]:
    """Return the outputs of all rows, computed in batches of `size` rows."""
    batches = [
        compute({name: array[start : start + size] for name, array in samples.items()})
        for start in range(0, rows, size)
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
