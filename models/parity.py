"""The parity proof: an exported file gives what the network that it came from gives."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import ParityRecord, RuntimeName
from models.differences import relative_difference, tolerated
from models.runtimes import Arrays

BATCH_SIZES = (1, 7, 64)
ABSOLUTE_TOLERANCE = 1e-5
"""For probabilities: the largest |difference| over the largest probability."""
RELATIVE_TOLERANCE = 1e-4
"""For other numbers: the largest |difference| over the magnitude of the column, or of the row."""


class ParityError(Exception):
    """An exported file does not equal its network: says which runtime, input and difference."""


def prove(
    reference: Callable[[Arrays], Arrays],
    candidate: Callable[[Arrays], Arrays],
    samples: Arrays,
    *,
    runtime: RuntimeName,
    classification: bool,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    reference_batch: int | None = 1,
) -> ParityRecord:
    """Prove that `candidate` equals `reference` on `samples`, at each batch size.

    The reference computes every row alone, by default. That the candidate's answer at each batch
    size is within tolerance of it shows two things at once: the file equals the network, and a
    row's answer does not depend on its neighbours.

    Args:
        reference: the network in eager mode.
        candidate: the exported file in its runtime.
        samples: inputs by name, all with the same number of rows.
        runtime: the candidate's name, for the record.
        classification: whether outputs are probabilities (one tolerance for all, and the same
            class for every sample) or numbers (relative to the magnitude of each column). Whole
            numbers and truth values must be the same either way.
        batch_sizes: sizes in which the candidate is asked.
        reference_batch: size in which the reference is asked; None for the same as the candidate.
            More than 1 shows equality, and nothing of a row's neighbours.

    Raises:
        ParityError: a difference above the tolerance, another class or whole number, or another
            shape or dtype.
    """
    rows = len(next(iter(samples.values())))
    expected: Arrays = {}
    absolute = relative = 0.0
    for size in batch_sizes:
        if reference_batch is None or not expected:
            expected = _in_batches(reference, samples, rows, reference_batch or size)
        answered = _in_batches(candidate, samples, rows, size)
        for name, wanted in expected.items():
            found = answered[name]
            where = f"{runtime}, batch size {size}, output {name}"
            if found.shape != wanted.shape or found.dtype != wanted.dtype:
                raise ParityError(
                    f"{where}: {found.dtype} {list(found.shape)} where the network gives "
                    f"{wanted.dtype} {list(wanted.shape)}"
                )
            if not wanted.size:  # as a decoder's cache before its first token
                continue
            if not np.issubdtype(wanted.dtype, np.floating):
                equal = (found == wanted).reshape(rows, -1).all(axis=1)
                if not equal.all():
                    raise ParityError(
                        f"{where}: sample {int(np.argmin(equal))} has another whole number"
                    )
                continue
            measured = relative_difference(found, wanted, probabilities=classification)
            difference = np.abs(found.astype(np.float64) - wanted)
            tolerance = tolerated(
                ABSOLUTE_TOLERANCE if classification else RELATIVE_TOLERANCE, wanted.dtype
            )
            worst = int(np.unravel_index(np.argmax(measured), measured.shape)[0])
            if measured.max() > tolerance:
                raise ParityError(
                    f"{where}: sample {worst} differs by {measured.max():.3g}, "
                    f"more than {tolerance:g}"
                )
            if classification:
                same = found.argmax(axis=-1) == wanted.argmax(axis=-1)
                if not same.all():
                    raise ParityError(f"{where}: sample {int(np.argmin(same))} has another class")
            absolute = max(absolute, float(difference.max()))
            relative = max(relative, float(measured.max()))
    kind = "absolute" if classification else "relative"
    return ParityRecord(
        runtime=runtime,
        samples=rows,
        batch_sizes=tuple(batch_sizes),
        largest_absolute_difference=absolute,
        largest_relative_difference=relative,
        equal_answers=1.0,  # or there were a ParityError instead
        tolerance=f"{ABSOLUTE_TOLERANCE if classification else RELATIVE_TOLERANCE:g} {kind}",
    )


def _in_batches(
    compute: Callable[[Arrays], Arrays], samples: Arrays, rows: int, size: int
) -> dict[str, NDArray[Any]]:
    answers = [
        compute({name: array[start : start + size] for name, array in samples.items()})
        for start in range(0, rows, size)
    ]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
