"""What a network of torch itself answers: to the sample, and to rows unlike it.

An exporter keeps one branch of code that decides by the number of rows or by a size, and converts
some operators for positive numbers only. The answers to the sample do not show that.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.explain import failure
from fitserve.exported import ExportError, Record
from fitserve.torch_networks import Axes, with_one_more_row

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZES = (1, 2, 3, 5, 8, 16, 31, 32, 64, 101, 128, 255, 256, 512)
"""The sizes of free dimensions that are tried, beside one more than that of the sample."""
MOST_NUMBERS = 2**20
"""Rows with more numbers are not tried."""
MOST_SECONDS = 5.0
"""The time for rows unlike the sample, after which no more are computed."""
Rows = Mapping[str, "Tensor"]


def record_of(flat: "nn.Module", rows: Rows) -> Record:
    """Return the rows and what the module computes for them.

    Raises:
        ExportError: the module fails.
    """
    import torch

    buffers = {name: buffer.clone() for name, buffer in flat.named_buffers()}
    try:
        with torch.inference_mode():
            result = flat(**{name: tensor.clone() for name, tensor in rows.items()})
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"the network fails on the sample: {failure(error)}: give rows as it was trained on"
        ) from error
    for name, buffer in flat.named_buffers():
        same = (buffer == buffers[name]) | ((buffer != buffer) & (buffers[name] != buffers[name]))
        if not same.all():
            buffer.copy_(buffers[name])
            raise ExportError(
                f"the network changes its buffer {name.removeprefix('network.')} when it computes, "
                "so that an answer depends on the requests before it: compute without that change "
                "if not self.training"
            )
    tensors = result if isinstance(result, tuple) else (result,)
    answers = dict(zip(flat.names, tensors, strict=True))  # type: ignore[arg-type]
    if twice := [name for name in answers if name in rows]:
        raise ExportError(
            f"the network returns an output with the name of its input {twice[0]}: name it "
            "differently"
        )
    return Record(
        {name: _array(f"sample {name}", tensor) for name, tensor in rows.items()},
        {name: _array(f"output {name}", tensor) for name, tensor in answers.items()},
    )


def _array(name: str, tensor: "Tensor") -> Any:
    """Return a tensor as an array.

    Raises:
        ExportError: its numbers are of a type that no request holds.
    """
    import torch

    dense = tensor.detach().cpu().to_dense()
    if dense.dtype == torch.bfloat16:
        dense = dense.float()  # of which every BF16 is a number
    if tensor.is_quantized or tensor.is_complex() or not _is_numpy_type(dense):
        kind = str(tensor.dtype).removeprefix("torch.")
        advice = "its real and imaginary parts" if tensor.is_complex() else "it in float32"
        raise ExportError(f"the {name} is {kind}, which no request holds: give {advice}")
    return np.asarray(dense.numpy(), order="C")


def _is_numpy_type(tensor: "Tensor") -> bool:
    """Return whether numpy has the type of the tensor, which it lacks for those of eight bits."""
    try:
        tensor[:0].numpy() if tensor.ndim else tensor.numpy()
    except TypeError:
        return False
    return True


def further_records(
    flat: "nn.Module", samples: Sequence[Rows], records: Sequence[Record], axes: Axes
) -> list[Record]:
    """Return the answers to one row, one row more, opposite numbers and other sizes.

    What the network does not compute, or computes to no finite numbers, is left out. On a GPU, rows
    of the sample alone are tried: an index outside of a table would end the process there.

    Args:
        flat: the module.
        samples: its samples, by argument.
        records: of the samples.
        axes: the axis of the batch of each input.
    """
    found, started = [], time.monotonic()
    for rows in _unlike(samples, axes):
        if time.monotonic() - started > MOST_SECONDS:
            break
        try:
            record = _with_rows(record_of(flat, rows), records[0], axes)
        except Exception:  # noqa: BLE001, S112 - the network does not take such rows
            continue
        if all(
            array.dtype.kind != "f" or np.isfinite(array).all() for array in record.answers.values()
        ):
            found.append(record)
    return found


def _unlike(samples: Sequence[Rows], axes: Axes) -> Iterator[Rows]:
    sample = samples[0]
    single = {name: _first(tensor, axes.get(name, 0)) for name, tensor in sample.items()}
    yield single
    yield with_one_more_row(sample, axes)
    if any(tensor.device.type != "cpu" for tensor in sample.values()):
        return
    if any(tensor.is_floating_point() for tensor in sample.values()):
        yield {name: _opposite(tensor, whole=False) for name, tensor in sample.items()}
    if any(_is_signed_whole(tensor) for tensor in sample.values()):
        yield {name: _opposite(tensor, whole=True) for name, tensor in sample.items()}
    free = _free_dimensions(samples, axes)
    for sizes in _sizes(single, free):
        if sum(_count(single, free, sizes).values()) <= MOST_NUMBERS:
            yield _resized(single, free, sizes)


def _first(tensor: "Tensor", axis: int | None) -> "Tensor":
    return tensor if axis is None else tensor.narrow(axis, 0, 1)


def _opposite(tensor: "Tensor", *, whole: bool) -> "Tensor":
    """Return the numbers with the opposite sign; whole numbers only if `whole`."""
    changes = tensor.is_floating_point() or (whole and _is_signed_whole(tensor))
    return 0 - tensor if changes else tensor  # no -0


def _is_signed_whole(tensor: "Tensor") -> bool:
    import torch

    return tensor.dtype in (torch.int8, torch.int16, torch.int32, torch.int64)


Free = Mapping[tuple[int, ...], list[tuple[str, int]]]
"""The free dimensions of the inputs, by their sizes in the samples: equal ones belong together."""


def _free_dimensions(samples: Sequence[Rows], axes: Axes) -> Free:
    found: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for name, tensor in samples[0].items():
        for axis in range(tensor.ndim):
            sizes = tuple(sample[name].shape[axis] for sample in samples)
            if axis != axes.get(name, 0) and len(set(sizes)) > 1:
                found.setdefault(sizes, []).append((name, axis))
    return found


def _sizes(rows: Rows, free: Free) -> Iterator[dict[tuple[int, ...], int]]:
    """Yield the sizes of the free dimensions: all of one size, and one of them one larger."""
    for size in SIZES if free else ():
        yield dict.fromkeys(free, size)
    usual = {key: rows[places[0][0]].shape[places[0][1]] for key, places in free.items()}
    for key in free:
        yield usual | {key: usual[key] + 1}


def _resized(rows: Rows, free: Free, sizes: Mapping[tuple[int, ...], int]) -> Rows:
    """Return rows whose free dimensions are cut, or repeated from the start."""
    import torch

    resized = dict(rows)
    for key, places in free.items():
        for name, axis in places:
            index = torch.arange(sizes[key]) % resized[name].shape[axis]
            resized[name] = resized[name].index_select(axis, index)
    return resized


def _count(rows: Rows, free: Free, sizes: Mapping[tuple[int, ...], int]) -> dict[str, int]:
    """Return how many numbers each input has at these sizes."""
    counts = {name: tensor.numel() for name, tensor in rows.items()}
    for key, places in free.items():
        for name, axis in places:
            counts[name] = counts[name] // rows[name].shape[axis] * sizes[key]
    return counts


def _with_rows(record: Record, sample: Record, axes: Axes) -> Record:
    """Return the record with the axis of the batch in answers that lack it, as squeezed ones do."""
    if axes:
        return record
    count = len(next(iter(record.samples.values())))
    answers: dict[str, Any] = {}
    for name, array in record.answers.items():
        shape = (count, *sample.answers[name].shape[1:])
        lacks = array.ndim < len(shape) and array.size == np.prod(shape)
        answers[name] = array.reshape(shape) if lacks else array
    return replace(record, answers=answers)
