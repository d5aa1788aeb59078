"""One batch: slices of several requests, computed together so that only a guilty request fails.

The code runs on the thread of a batcher's worker. It knows nothing of queues or the event loop.
"""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceededError, ModelFaultError, ServiceError

Arrays = Mapping[str, NDArray[Any]]
"""Tensor names to arrays; the first axis of each array counts the rows."""


class InferenceResponse(NamedTuple):
    """The response to one request.

    Attributes:
        outputs: may be views of the batch's outputs, which they keep alive.
        queue_seconds: from the submission to the start of the compute of the first row.
        compute_seconds: of all batches that held rows of the request.
        batch_rows: the rows of the last of these batches.
    """

    outputs: Arrays
    queue_seconds: float
    compute_seconds: float
    batch_rows: int


DoneCallback = Callable[[InferenceResponse | ServiceError], None]
"""Called once with the response to a request, or with the error in its place."""


class WaitingRows(Protocol):
    """The queue as a request knows it; `RequestQueue` is the implementation."""

    def remove(self, request: "InferenceRequest") -> None:
        """Take the waiting rows of the request out of the queue."""


@dataclass(slots=True, eq=False)
class InferenceRequest:
    """One request, from its submission to its response. `cancel` takes it back.

    Attributes:
        inputs: the input arrays, all with the same number of rows.
        rows: the number of rows.
        waiting: the number of rows that are in no batch yet: the last rows.
        arrived: `time.monotonic` seconds of the submission.
        deadline: `time.monotonic` seconds until which all rows must be in a batch.
        done_callback: None once it was called, or after `cancel`.
        caller: whose request it is; callers share the batches equally.
        queue: the queue that holds the waiting rows; None before the request was added.
        responses: to the slices that were computed, if the request was split; without outputs.
        outputs: of the slices that were computed, if the request was split.
        whole: whether the request is never split or batched with others, because its rows may
            depend on each other.
        size: the rows of usual size that are as large as the request; 0 for `rows`.
        cost: of a whole request, the rows of full batches that take as long; 0 if not known.
        suspect: whether the request was in a batch that hung; it is not batched with others then.
        group: of the requests whose rows can be joined, as they have the same shapes, and the same
            values of the inputs that rows share; None if all requests can be joined.
    """

    inputs: Arrays
    rows: int
    waiting: int
    arrived: float
    deadline: float
    done_callback: DoneCallback | None
    caller: str = ""
    queue: WaitingRows | None = None
    responses: list[InferenceResponse] = field(default_factory=list)
    outputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    whole: bool = False
    size: float = 0.0
    cost: int = 0
    suspect: bool = False
    group: Hashable = None

    def cancel(self) -> None:
        """Forget the caller, and take the waiting rows out of the queue.

        Rows in compute are computed to the end. A second call does nothing, nor does a call after
        the response.
        """
        self.done_callback = None
        if self.queue is not None:
            self.queue.remove(self)

    def gather(self, start: int, stop: int, outputs: Arrays) -> Arrays:
        """Copy the outputs of some rows into those of the request, and return the latter.

        The thread that computes calls this: copying a large output would hold the event loop.

        Raises:
            ValueError: the outputs have other names, shapes or dtypes than those of other rows.
        """
        if not self.outputs:
            self.outputs = {
                name: np.empty((self.rows, *array.shape[1:]), array.dtype)
                for name, array in outputs.items()
            }
        for name, whole in self.outputs.items():
            array = outputs.get(name)
            if array is None or array.shape[1:] != whole.shape[1:] or array.dtype != whole.dtype:
                raise ValueError(f"output {name!r} has another shape or type in some rows")
            whole[start:stop] = array
        return self.outputs

    def is_over(self, now: float) -> bool:
        """Return whether a compute is pointless: the caller is gone or the deadline has passed."""
        return self.done_callback is None or self.deadline <= now


class Slice(NamedTuple):
    """The rows `start` to `stop` (excluded) of one request, which are in one batch."""

    request: InferenceRequest
    start: int
    stop: int

    @property
    def inputs(self) -> Arrays:
        """The rows: the request's own arrays if the slice holds all rows, else views of them."""
        request, start, stop = self
        whole = stop - start == request.rows
        return request.inputs if whole else _cut(request.inputs, start, stop)


Judge = Callable[[Callable[[Arrays], Arrays], Exception], ServiceError]
"""Return the error for the caller whose rows, computed alone, made this function raise this."""


class RowCountError(ValueError):
    """The model returned another number of rows than it was given."""


class Timings(NamedTuple):
    """The seconds of one batch: joining the inputs, the model, slicing the outputs.

    For a batch that failed and was computed again in halves, `compute_infer` is the whole time.
    """

    compute_input: float
    compute_infer: float
    compute_output: float


def run_batch(
    batch: Sequence[Slice],
    compute: Callable[[Arrays], Arrays],
    name: str,
    *,
    judge: Judge | None = None,
) -> tuple[list[Arrays | ServiceError], Timings]:
    """Compute a batch, each group of requests at once.

    If `compute` raises, each half of the group is computed separately. A guilty slice thereby costs
    its neighbours about two computes for each doubling of the batch, and a batch that is too large
    for the device's memory is computed in smaller ones, unless it is a whole request.

    Args:
        batch: the slices, with one or more rows each.
        compute: maps a batch's inputs to its outputs, row by row; raises MemoryError if the batch
            is too large for the memory.
        name: of the model, for the errors.
        judge: decides the error of a slice that fails alone, unless the number of rows is wrong.
            Without it, the error is the model's fault.

    Returns:
        One outcome for each slice, and the timings of the batch.
    """
    if batch[0].request.group is None:
        return _run_group(batch, compute, name, judge)
    groups: dict[Hashable, list[int]] = {}
    for index, part in enumerate(batch):
        groups.setdefault(part.request.group, []).append(index)
    outcomes: dict[int, Arrays | ServiceError] = {}
    timings = []
    for indices in groups.values():
        found, seconds = _run_group([batch[index] for index in indices], compute, name, judge)
        outcomes.update(zip(indices, found, strict=True))
        timings.append(seconds)
    return [outcomes[index] for index in range(len(batch))], _added(timings)


def _added(timings: Sequence[Timings]) -> Timings:
    """Return the sum of some timings."""
    return Timings(*[sum(seconds) for seconds in zip(*timings, strict=True)])


def _run_group(
    batch: Sequence[Slice],
    compute: Callable[[Arrays], Arrays],
    name: str,
    judge: Judge | None,
) -> tuple[list[Arrays | ServiceError], Timings]:
    """Compute slices of one group, as `run_batch` does."""
    started = time.monotonic()
    try:
        return _attempt(batch, compute, name)
    except BaseException as error:  # noqa: BLE001 - every slice needs an outcome
        if len(batch) > 1:
            middle = len(batch) // 2
            outcomes = [
                *_retry(batch[:middle], compute, name, judge),
                *_retry(batch[middle:], compute, name, judge),
            ]
        elif _is_divisible(batch[0]) and isinstance(error, MemoryError):
            outcomes = [_in_halves(batch[0], compute, name, judge)]
        else:
            outcomes = [_error_of(error, compute, name, judge)]
    return outcomes, Timings(0.0, time.monotonic() - started, 0.0)


def _error_of(
    error: BaseException,
    compute: Callable[[Arrays], Arrays],
    name: str,
    judge: Judge | None,
) -> ServiceError:
    """Return the error for the caller whose slice fails alone."""
    if judge is None or not isinstance(error, Exception) or isinstance(error, RowCountError):
        return fault(name, error)
    try:
        return judge(compute, error)
    except Exception as mistake:  # noqa: BLE001 - every slice needs an outcome
        return fault(name, mistake)


def _retry(
    batch: Sequence[Slice],
    compute: Callable[[Arrays], Arrays],
    name: str,
    judge: Judge | None,
) -> list[Arrays | ServiceError]:
    """Compute a half of a failed batch, without the slices whose request is over."""
    now = time.monotonic()
    # Asked once: the event loop may cancel a request while the other slices are computed.
    pending = [not part.request.is_over(now) for part in batch]
    repeated = [part for part, is_wanted in zip(batch, pending, strict=True) if is_wanted]
    outcomes = iter(run_batch(repeated, compute, name, judge=judge)[0] if repeated else ())
    return [next(outcomes) if is_wanted else too_late(name) for is_wanted in pending]


def _is_divisible(part: Slice) -> bool:
    return part.stop - part.start > 1 and not part.request.whole


def _in_halves(
    part: Slice, compute: Callable[[Arrays], Arrays], name: str, judge: Judge | None
) -> Arrays | ServiceError:
    """Compute one slice whose rows do not fit into the device's memory together."""
    middle = (part.start + part.stop) // 2
    for half in (part._replace(stop=middle), part._replace(start=middle)):
        (outcome,), _ = run_batch([half], compute, name, judge=judge)
        if isinstance(outcome, ServiceError):
            break
    return outcome


def _attempt(
    batch: Sequence[Slice], compute: Callable[[Arrays], Arrays], name: str
) -> tuple[list[Arrays | ServiceError], Timings]:
    started = time.monotonic()
    inputs = joined([part.inputs for part in batch])
    have_inputs = time.monotonic()
    outputs = compute(inputs)
    have_outputs = time.monotonic()
    rows = len(next(iter(inputs.values())))
    for output, array in outputs.items():
        if len(array) != rows:
            raise RowCountError(f"output {output!r} has {len(array)} rows for {rows} of input")
    pieces: list[Arrays | ServiceError] = []
    end = 0
    for request, start, stop in batch:
        begin, end = end, end + stop - start
        piece = _cut(outputs, begin, end)
        if stop - start == request.rows:
            pieces.append(piece)
            continue
        try:
            pieces.append(request.gather(start, stop, piece))
        except ValueError as mismatch:  # the model's outputs may be anything
            pieces.append(fault(name, mismatch))
    ended = time.monotonic()
    return pieces, Timings(have_inputs - started, have_outputs - have_inputs, ended - have_outputs)


def fault(name: str, cause: BaseException | None = None) -> ModelFaultError:
    """Return the error for a failure of the model; the log shows the cause."""
    error = ModelFaultError(f"Model {name} failed on this request.")
    error.__cause__ = cause
    return error


def too_late(name: str) -> DeadlineExceededError:
    """Return the error for a request whose deadline passed before its compute."""
    return DeadlineExceededError(
        f"Model {name} did not get to this request before its deadline. Try again later."
    )


def count_rows(batch: Sequence[Slice]) -> int:
    """Return the number of rows in a batch."""
    return sum([stop - start for _, start, stop in batch])  # faster than a generator


def joined(pieces: Sequence[Arrays]) -> Arrays:
    """Join the rows of all pieces in order; a single piece is returned without a copy."""
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _cut(arrays: Arrays, start: int, stop: int) -> Arrays:
    """Return views of some of the rows."""
    return {name: array[start:stop] for name, array in arrays.items()}
