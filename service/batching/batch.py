"""One batch: the parts of several requests, computed together so that only the guilty one fails.

Runs on the batcher's worker thread, and knows nothing of queues or of the event loop.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceededError, ModelFaultError, ServiceError

Arrays = Mapping[str, NDArray[Any]]
"""Tensor name to array; the first axis of each is the rows."""


class Answer(NamedTuple):
    """What one request gets back.

    `outputs` may be views of its batch's outputs; they keep those alive. `queue_seconds` runs from
    submission to the compute of the first row, `compute_seconds` is the time of all batches that
    held a part of it, and `batch_rows` are the rows of the last of them.
    """

    outputs: Arrays
    queue_seconds: float
    compute_seconds: float
    batch_rows: int


@dataclass(slots=True, eq=False)
class Request:
    """One request, while it waits and while its parts are computed."""

    inputs: Arrays
    rows: int
    waiting: int  # rows not yet in a batch; they are the last ones
    arrived: float
    deadline: float
    done: Callable[[Answer | ServiceError], None] | None  # None once called, or nobody waits
    answers: list[Answer] = field(default_factory=list)  # to its parts, where it was split
    suspect: bool = False  # it was in a batch of which the compute did not end

    def is_over(self, now: float) -> bool:
        """Whether computing it is pointless: its caller left, or its deadline has passed."""
        return self.done is None or self.deadline <= now


class Part(NamedTuple):
    """The rows of one request, from `start` to before `stop`, that ride in one batch."""

    request: Request
    start: int
    stop: int

    @property
    def inputs(self) -> Arrays:
        """Its rows; those of a whole request as they are, and others as views."""
        request, start, stop = self
        whole = stop - start == request.rows
        return request.inputs if whole else _cut(request.inputs, start, stop)


Judge = Callable[[Callable[[Arrays], Arrays], Exception], ServiceError]
"""What to tell the caller whose rows, computed alone by this function, made it raise this error."""


class RowCountError(ValueError):
    """The model gave another number of rows than it was given."""


class Timings(NamedTuple):
    """Where a batch's time went, in seconds: gathering its rows, the model, handing out answers.

    A batch that failed and was repeated in halves has all of its time under `compute`.
    """

    gather: float
    compute: float
    split: float


def run_batch(
    batch: Sequence[Part],
    compute: Callable[[Arrays], Arrays],
    name: str,
    *,
    judge: Judge | None = None,
    whole: bool = False,
) -> tuple[list[Arrays | ServiceError], Timings]:
    """One outcome for each part of the batch; where `compute` raises, of each half on its own.

    So a guilty part costs its neighbours about two computes for each doubling of the batch, and a
    batch that is too large for the device's memory is computed in pieces that are not.

    Args:
        batch: the parts, of one or more rows each.
        compute: maps a batch's inputs to its outputs, row by row; raises MemoryError where the
            batch is too large for the memory.
        name: of the model, for the errors.
        judge: asked about a part that fails alone, unless memory is short or the number of rows is
            wrong; without it the model is at fault.
        whole: whether a part stays as it is, also where it is too large for the memory.
    """
    started = time.monotonic()
    try:
        return _attempt(batch, compute)
    except BaseException as error:  # noqa: BLE001 - whatever it is, somebody awaits an answer
        if len(batch) > 1:
            middle = len(batch) // 2
            outcomes = [
                *_again(batch[:middle], compute, name, judge),
                *_again(batch[middle:], compute, name, judge),
            ]
        elif isinstance(error, MemoryError) and count_rows(batch) > 1 and not whole:
            outcomes = [_in_halves(batch[0], compute, name, judge)]
        else:
            outcomes = [_blame(error, compute, name, judge)]
    return outcomes, Timings(0.0, time.monotonic() - started, 0.0)


def _blame(
    error: BaseException,
    compute: Callable[[Arrays], Arrays],
    name: str,
    judge: Judge | None,
) -> ServiceError:
    """What to tell the caller whose part fails alone."""
    if (
        judge is None
        or not isinstance(error, Exception)
        or isinstance(error, (RowCountError, MemoryError))
    ):
        return fault(name, error)
    try:
        return judge(compute, error)
    except Exception as mistake:  # noqa: BLE001 - whatever it is, somebody awaits an answer
        return fault(name, mistake)


def _again(
    batch: Sequence[Part],
    compute: Callable[[Arrays], Arrays],
    name: str,
    judge: Judge | None,
) -> list[Arrays | ServiceError]:
    """The outcomes of a part of a batch that failed; what nobody waits for is not computed."""
    now = time.monotonic()
    # Asked once: a caller may leave while the others are computed, on the event loop's thread.
    wanted = [not part.request.is_over(now) for part in batch]
    again = [part for part, is_wanted in zip(batch, wanted, strict=True) if is_wanted]
    found = iter(run_batch(again, compute, name, judge=judge)[0] if again else ())
    return [next(found) if is_wanted else too_late(name) for is_wanted in wanted]


def _in_halves(
    part: Part, compute: Callable[[Arrays], Arrays], name: str, judge: Judge | None
) -> Arrays | ServiceError:
    """The outcome of one part whose rows are too many for the device's memory."""
    middle = (part.start + part.stop) // 2
    halves: list[Arrays] = []
    for half in (part._replace(stop=middle), part._replace(start=middle)):
        (outcome,), _ = run_batch([half], compute, name, judge=judge)
        if isinstance(outcome, ServiceError):
            return outcome
        halves.append(outcome)
    try:
        return joined(halves)
    except Exception as mismatch:  # noqa: BLE001 - the model's outputs may be anything
        return fault(name, mismatch)


def _attempt(
    batch: Sequence[Part], compute: Callable[[Arrays], Arrays]
) -> tuple[list[Arrays | ServiceError], Timings]:
    started = time.monotonic()
    inputs = joined([part.inputs for part in batch])
    gathered = time.monotonic()
    outputs = compute(inputs)
    computed = time.monotonic()
    rows = len(next(iter(inputs.values())))
    for name, array in outputs.items():
        if len(array) != rows:
            raise RowCountError(f"output {name!r} has {len(array)} rows for {rows} of input")
    pieces: list[Arrays | ServiceError] = []
    end = 0
    for _, start, stop in batch:
        begin, end = end, end + stop - start
        pieces.append(_cut(outputs, begin, end))
    split = time.monotonic()
    return pieces, Timings(gathered - started, computed - gathered, split - computed)


def fault(name: str, cause: BaseException | None = None) -> ModelFaultError:
    """What a caller is told when the model fails; the cause is for the log."""
    error = ModelFaultError(f"Model {name} failed on this request.")
    error.__cause__ = cause
    return error


def too_late(name: str) -> DeadlineExceededError:
    """What a caller is told whose deadline passed before its compute."""
    return DeadlineExceededError(
        f"Model {name} did not get to this request before its deadline. Try again later."
    )


def count_rows(batch: Sequence[Part]) -> int:
    """The rows of a batch."""
    return sum(stop - start for _, start, stop in batch)


def joined(pieces: Sequence[Arrays]) -> Arrays:
    """The rows of all pieces in order; a lone piece stays as it is, uncopied."""
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _cut(arrays: Arrays, start: int, stop: int) -> Arrays:
    """Some of the rows, as views."""
    return {name: array[start:stop] for name, array in arrays.items()}
