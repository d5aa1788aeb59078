"""The check of padding: a row that is padded, beside longer rows, gives what it gives alone."""

import time
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import AddError
from models.kinds.padding import PaddedInput, PaddingSpec
from models.kinds.tensor_spec import TensorSpec
from models.package.card import ParityRecord
from models.proofs.parity import ParityError, check_parity
from models.proofs.row_proof import RowsProof, is_classification
from models.proofs.varied_rows import computable, varied_rows
from models.runtimes.runtime import Arrays, one_line
from models.sources.free_sizes import dimension_key, free_dimensions
from models.sources.importing import ForeignGraph
from models.sources.max_length import Sizes, at_sizes
from models.sources.ranges import whole_numbers
from models.sources.samples import LARGEST_BATCH, Samples

MOST_SECONDS = 5.0
"""The time for lengths beside the shortest, the middle and the longest that are padded to one."""
SHORTEST = 8
"""Shorter rows are padded to this length."""


class Pad(NamedTuple):
    """The value with which an input is padded."""

    name: str
    value: float


def parse_pad(text: str) -> Pad:
    """Parse `tokens=0`.

    Raises:
        ArgumentTypeError: the text has another form.
    """
    name, _, value = text.rpartition("=")
    try:
        pad = Pad(name, float(value))
    except ValueError:
        pad = Pad("", 0.0)
    if not pad.name or not np.isfinite(pad.value):
        raise ArgumentTypeError(f"{text!r} must be INPUT=VALUE, as tokens=0")
    return pad


def planned_padding(
    graph: ForeignGraph,
    pads: Sequence[Pad],
    masks: Sequence[str],
    inputs: Sequence[TensorSpec],
    rows: Arrays,
    largest: Sizes,
) -> PaddingSpec | None:
    """Return the padding that the options ask for; None without options.

    Args:
        graph: the network.
        pads: the values of the inputs that are padded.
        masks: the inputs that tell which places of a row are real, which are padded with 0.
        inputs: the specifications of the inputs.
        rows: samples, whose first is computed at two lengths.
        largest: the largest size of each free dimension.

    Raises:
        AddError: the options do not fit the inputs, or the outputs have no such length.
    """
    if not (pads or masks):
        return None
    if graph.fixed_batch is not None:
        raise AddError(
            f"{graph.file}: its batch is fixed at {graph.fixed_batch}, so that requests share no "
            "batch: export it with a dynamic batch, or omit --pad and --mask"
        )
    specs = {spec.name: spec for spec in inputs}
    padded = {
        **{pad.name: (pad.value, False) for pad in pads},
        **dict.fromkeys(masks, (0.0, True)),
    }
    if len(padded) < len(pads) + len(masks):
        raise AddError("--pad and --mask name an input twice: give each input once")
    found = {}
    for name, (value, is_mask) in padded.items():
        if name not in specs:
            option, known = "--mask" if is_mask else "--pad", ", ".join(specs)
            raise AddError(f"{option} names {name!r}: the inputs are {known}")
        found[name] = _padded_input(specs[name], value, is_mask=is_mask)
    others = [spec.name for spec in inputs if -1 in spec.shape[1:] and spec.name not in found]
    if others:
        raise AddError(
            f"the input {others[0]} has a free length as well: give its value with "
            f"--pad {others[0]}=VALUE, or --mask {others[0]}"
        )
    longest = min(largest[_key(graph, name, one.axis)] for name, one in found.items())
    padding = PaddingSpec(inputs=found, outputs={}, lengths=_lengths(longest))
    return replace(padding, outputs=_output_axes(graph, padding, rows))


def rows_of_length(graph: ForeignGraph, padding: PaddingSpec, rows: Arrays, length: int) -> Arrays:
    """Return the rows cut to a length, or repeated from the start. Their masks are all ones."""
    sizes = free_dimensions(graph.network.inputs, rows)
    sizes |= {_key(graph, name, one.axis): length for name, one in padding.inputs.items()}
    resized = dict(at_sizes(graph.network.inputs, rows, sizes))
    for name, one in padding.inputs.items():
        if one.is_mask:
            resized[name] = np.ones_like(resized[name])
    return resized


def require_batched(graph: ForeignGraph, padding: PaddingSpec, proof: RowsProof) -> None:
    """Check that rows are independent at each length of the padding.

    Raises:
        AddError: this is not proved for a length.
    """
    reasons = [proof.mixing] if proof.mixing else []
    name, one = next(iter(padding.inputs.items()))
    reasons += [
        f"at length {rows[name].shape[one.axis]}, {reason}"
        for rows, reason in proof.unbatched
        if padding.length_of(rows) in padding.lengths
    ]
    if reasons:
        raise AddError(
            f"{graph.file}: its rows cannot share a batch ({reasons[0]}), so that padding serves "
            "nothing: omit --pad and --mask"
        )


def prove_padding(
    graph: ForeignGraph,
    padding: PaddingSpec,
    rows: Arrays,
    outputs: Sequence[TensorSpec],
    *,
    half: float,
) -> ParityRecord:
    """Check that rows give, padded and beside longer rows, what they give alone.

    At each length of the padding, the shortest rows that are padded to it are tried, the longest,
    and those between as far as the time allows; some rows are padded already, as callers do.

    Args:
        graph: the network.
        padding: the padding.
        rows: samples, and variations of them.
        outputs: the specifications of the outputs.
        half: the tolerance of the half precision in which the network computes; else 0.

    Raises:
        AddError: a row gives something else.
    """
    ends = [*zip((0, *padding.lengths), padding.lengths, strict=False)]
    few = [
        (length, target)
        for shorter, target in ends
        for length in sorted({shorter + 1, (shorter + target) // 2, target - 1} - {0, target})
    ]
    others = [(at, target) for shorter, target in ends for at in range(shorter + 1, target)]
    records: list[ParityRecord] = []
    started = time.monotonic()
    for length, target in dict.fromkeys((*few, *others)):
        if len(records) >= len(few) and time.monotonic() - started > MOST_SECONDS:
            break
        short = partly_masked(padding, rows_of_length(graph, padding, rows, length))
        beside = rows_of_length(graph, padding, rows, target)
        try:
            records.append(
                check_parity(
                    graph.network,
                    _Padded(graph, padding, target, beside),
                    short,
                    runtime="onnx",
                    classification=is_classification(outputs),
                    batch_sizes=[len(next(iter(short.values())))],
                    half=half,
                )
            )
        except ParityError as error:
            raise AddError(
                f"{graph.file}: rows of length {length} give something else when they are "
                f"padded to {target} ({error}): give the input that masks the padding with "
                "--mask, or omit --pad: rows of one length are batched without it"
            ) from error
        except Exception as error:
            raise AddError(
                f"{graph.file}: it fails on rows of length {length} that are padded to "
                f"{target} ({one_line(error)}): give a value that it takes with --pad"
            ) from error
    return max(records, key=lambda record: record.largest_relative_difference)


def with_varied_rows(graph: ForeignGraph, rows: Arrays, samples: Samples) -> Arrays:
    """Return rows and variations of them, unless the network takes long for each."""
    if samples.largest_check < LARGEST_BATCH:
        return rows
    count = len(next(iter(rows.values())))
    varied = varied_rows(rows, count, samples.signed, samples.shared)
    varied = computable(graph.network, varied)
    return {name: np.concatenate([array, varied[name]]) for name, array in rows.items()}


def partly_masked(padding: PaddingSpec, rows: Arrays) -> Arrays:
    """Return the rows, of which every second one is padded from its middle on, if it has a mask."""
    if not any(one.is_mask for one in padding.inputs.values()):
        return rows
    length = padding.length_of(rows) or 0
    found = dict(rows)
    for name, one in padding.inputs.items():
        array = rows[name].copy()
        np.moveaxis(array, one.axis, 1)[1::2, (length + 1) // 2 :] = one.value
        found[name] = array
    return found


class _Padded:
    """The network, given rows that are padded to `target`, with rows of this length behind."""

    def __init__(
        self, graph: ForeignGraph, padding: PaddingSpec, target: int, beside: Arrays
    ) -> None:
        self._network, self._padding = graph.network, padding
        self._target, self._beside = target, beside

    def __call__(self, rows: Arrays) -> dict[str, NDArray[Any]]:
        length, count = self._padding.length_of(rows), len(next(iter(rows.values())))
        padded = self._padding.pad(rows, self._target)
        joined = {
            name: np.concatenate([array, self._beside[name]]) for name, array in padded.items()
        }
        computed = {name: array[:count] for name, array in self._network(joined).items()}
        return self._padding.cut(computed, length or 0)


def _padded_input(spec: TensorSpec, value: float, *, is_mask: bool) -> PaddedInput:
    """Return how an input is padded.

    Raises:
        AddError: the input has no free length, or several; or the value is none of its datatype.
    """
    if spec.datatype == "BYTES":
        raise AddError(f"the input {spec.name} takes text, which is not padded: omit its --pad")
    axes = [axis for axis, size in enumerate(spec.shape) if axis and size == -1]
    if len(axes) != 1:
        reason = "has no free length" if not axes else f"has {len(axes)} free dimensions"
        raise AddError(
            f"the input {spec.name} is {spec.to_text()}, which {reason}: only an input with one "
            "free dimension beside the batch can be padded"
        )
    if spec.dtype.kind != "f":
        least, most = whole_numbers(spec)
        if value != int(value) or not least <= value <= most:
            raise AddError(f"--pad {spec.name}={value:g} is no {spec.datatype}: give such a value")
        value = int(value)
    if spec.enforced and spec.first_outside(np.array([value])) is not None:
        raise AddError(
            f"--pad {spec.name}={value:g}: the input takes {spec.range}: give such a value"
        )
    return PaddedInput(axis=axes[0], value=value, is_mask=is_mask)


def _key(graph: ForeignGraph, name: str, axis: int) -> Any:
    (tensor,) = (tensor for tensor in graph.network.inputs if tensor.name == name)
    return dimension_key(tensor, axis)


def _lengths(longest: int) -> tuple[int, ...]:
    """Return the lengths of batches: powers of two, the middles between them, and the longest."""
    lengths, power = [], SHORTEST
    while power < longest:
        lengths += [power, 3 * power // 2]
        power *= 2
    return (*(length for length in lengths if length < longest), longest)


def _output_axes(
    graph: ForeignGraph, padding: PaddingSpec, rows: Arrays
) -> dict[str, tuple[int, ...]]:
    """Return the axes of each output that have the length, found by computing two lengths.

    Raises:
        AddError: an output has another size that depends on the length.
    """
    one = {name: array[:1] for name, array in rows.items()}
    long = padding.lengths[-1]
    short = max(long - 1, 1)
    results = [graph.network(rows_of_length(graph, padding, one, size)) for size in (short, long)]
    axes: dict[str, tuple[int, ...]] = {}
    for name, array in results[0].items():
        shapes = list(zip(array.shape, results[1][name].shape, strict=True))
        if any(sizes[0] != sizes[1] and sizes != (short, long) for sizes in shapes):
            raise AddError(
                f"{graph.file}: the output {name} is {list(array.shape)} for a row of {short} and "
                f"{list(results[1][name].shape)} for {long}, so that padding cannot be cut off: "
                "omit --pad and --mask"
            )
        axes[name] = tuple(axis for axis, sizes in enumerate(shapes) if sizes == (short, long))
    return {name: found for name, found in axes.items() if found}
