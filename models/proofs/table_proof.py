"""The check that rows of a table are converted and answered as by the network itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.errors import AddError
from models.kinds.table_columns import TableSpec
from models.kinds.table_samples import random_values, with_unusual
from models.kinds.table_values import TableError, table_inputs
from models.kinds.tensor_spec import TensorSpec
from models.package.card import ModelCard, ParityRecord
from models.proofs.parity import agree, in_batches
from models.proofs.torch_file_proof import LeftOutError
from models.runtimes.differences import is_finite, relative_difference
from models.runtimes.runtime import Arrays, DeclaredTensor, Runtime, one_line
from models.sources.importing import ForeignGraph, datatype_of
from models.sources.samples import rows_without_nan
from models.sources.source import Source
from models.sources.table_files import GivenTable

TOLERANCE = 1e-5
"""The largest difference of a number that a value becomes, and of an answer, relative to its
magnitude."""
LARGEST = 256
"""The most rows of the sample that are computed alone."""


def with_samples(file: str, source: Source, inputs: Sequence[DeclaredTensor]) -> Source:
    """Return the source of a network with a table: its samples are the rows without NaN.

    Args:
        file: the name of the network's file, for errors.
        source: whose rows are random if none are given.
        inputs: of the graph.

    Raises:
        AddError: the columns do not fit the inputs, a row does not fit the columns, or the export's
            own steps make something else of a row.
    """
    given = source.table
    if given is None:
        return source
    spec = given.spec.resolved([tensor.name for tensor in inputs])
    specs = [_stated(file, tensor, spec) for tensor in inputs]
    if misfit := spec.mismatch(specs):
        raise AddError(f"{file}: {misfit}")
    values = random_values(spec) if given.values is None else given.values
    arrays = _converted(spec, values, specs)
    if given.made:
        _require_equal(file, spec, arrays, given.made)
    whole = rows_without_nan(arrays).tolist()
    if not whole:
        raise AddError("every row of the sample lacks a number: give some rows without null")
    return replace(
        source,
        samples={name: array[whole] for name, array in arrays.items()},
        table=given._replace(
            spec=spec, values=dict(values), given=given.values is not None, whole=whole
        ),
    )


def with_example(table: GivenTable, rows: int, count: int) -> TableSpec:
    """Return the columns with the rows of the recorded prediction.

    Args:
        table: as `with_samples` returns it.
        rows: how many the prediction has: the first samples, repeated if there are too few.
        count: the number of samples.
    """
    values, places = table.values or {}, [table.whole[at % count] for at in range(rows)]
    example = tuple({name: values[name][at] for name in table.spec.by_name} for at in places)
    return replace(table.spec, example=example)


def prove_table(
    graph: ForeignGraph, card: ModelCard, table: GivenTable, *, half: float
) -> ParityRecord:
    """Check the answers to rows of the table, alone and together.

    The rows are those of the sample, and one for each value that may be missing or unknown.

    Args:
        graph: the network.
        card: whether rows are batched, and the specifications of the tensors.
        table: as `with_samples` returns it.
        half: the relative tolerance of half precision, if the network computes in it; else 0.

    Raises:
        AddError: the network fails on a row, its answer is not finite, is another beside other
            rows, or is another than that of the network itself.
    """
    arrays, size = _rows_of(graph, card, table), graph.fixed_batch or 1
    rows = len(next(iter(arrays.values())))
    sizes = (size, rows) if card.batching == "rows" and graph.fixed_batch is None else (size,)
    tolerance = half or TOLERANCE
    try:
        alone, *batches = (in_batches(graph.network, arrays, rows, one) for one in sizes)
    except Exception as error:
        raise AddError(
            f"{graph.file}: it fails on a row of the table ({one_line(error)}): check the codes of "
            "categories, unknown and missing values"
        ) from error
    for name, found in alone.items():
        if not is_finite(found):
            at = int(np.argmin(np.isfinite(found).reshape(rows, -1).all(axis=1)))
            raise AddError(
                f"{graph.file}: the output {name} is infinite or NaN for a row that becomes "
                f"{ {key: one[at].tolist() for key, one in arrays.items()} }: let the network "
                'compute what stands for missing values, or refuse them with "missing": null'
            )
        if any(not agree(one[name], found) for one in batches):
            raise AddError(
                f"{graph.file}: rows with missing or unknown values are answered otherwise beside "
                'other rows: refuse these values with "missing": null and "unknown": null'
            )
    total = len(next(iter((table.values or {}).values())))
    absolute, relative = _differences(graph.file, card, alone, table.answers, total)
    if relative > tolerance:
        raise AddError(
            f"{graph.file}: a row of the table is answered otherwise than by the network itself "
            f"(by {relative:.3g} of the magnitude, more than {tolerance:g}): declare the columns "
            "as in training"
        )
    return ParityRecord(
        runtime="onnx",
        samples=rows,
        batch_sizes=sizes,
        largest_absolute_difference=absolute,
        largest_relative_difference=relative,
        equal_answers=1.0,
        tolerance=f"{tolerance:g} relative, for rows of the table",
    )


def _differences(
    file: str, card: ModelCard, outputs: Arrays, answers: Arrays, total: int
) -> tuple[float, float]:
    """Return the largest difference from the network's own answers, and that of the magnitude.

    Args:
        file: the name of the network's file, for errors.
        card: the specifications of the outputs.
        outputs: of the first rows of the sample, and of further rows.
        answers: of the network itself, to all rows of the sample; of some outputs.
        total: the number of these rows.

    Raises:
        AddError: an answer is of another output, or there are not as many as rows.
    """
    absolute = relative = 0.0
    specs = {spec.name: spec for spec in card.outputs}
    for name, own in answers.items():
        if name not in outputs:
            raise AddError(
                f"{file}: its outputs are {', '.join(outputs)}, and the answers are of the output "
                f"{name}: name it as the network does"
            )
        count = min(total, LARGEST)
        found = outputs[name][:count]
        if len(own) != total or own[:count].size != found.size:
            raise AddError(
                f"{file}: there are {len(own)} answers {name} for {total} rows, {list(own.shape)}, "
                f"and the network gives {list(found.shape)} for {count}: give one for each row"
            )
        own = own[:count].reshape(found.shape)
        if found.dtype.kind != "f":
            relative = relative if np.array_equal(found, own) else np.inf
            continue
        shares = specs[name].is_probabilities
        difference = relative_difference(found, own, probabilities=shares)
        relative = max(relative, float(difference.max(initial=0.0)))
        absolute = max(absolute, float(np.abs(found - own).max(initial=0.0)))
    return absolute, relative


def require_equal_rows(
    graph: ForeignGraph, title: str, module: Runtime, card: ModelCard, table: GivenTable
) -> None:
    """Check that another file answers rows with missing and unknown values as the graph does.

    Raises:
        LeftOutError: it does not.
    """
    arrays = _rows_of(graph, card, table)
    size = graph.fixed_batch or 1
    count = len(next(iter(arrays.values())))
    own = in_batches(graph.network, arrays, count, size)
    try:
        others = in_batches(module, arrays, count, size)
        equal = all(agree(others[name], array) for name, array in own.items())
    except Exception:  # noqa: BLE001 - a file that fails is left out as well
        equal = False
    if not equal:
        raise LeftOutError(
            f"The {title} is left out, since it answers rows with missing or unknown values "
            "otherwise than the graph."
        )


def _rows_of(graph: ForeignGraph, card: ModelCard, table: GivenTable) -> dict[str, Any]:
    """Return rows of the sample, and rows with missing and unknown values; whole batches."""
    given = {name: one[:LARGEST] for name, one in (table.values or {}).items()}
    values = with_unusual(table.spec, given)
    size, count = graph.fixed_batch or 1, len(next(iter(values.values())))
    rows = -(-count // size) * size
    values = {name: [one[at % count] for at in range(rows)] for name, one in values.items()}
    return _converted(table.spec, values, card.inputs)


def _stated(file: str, tensor: DeclaredTensor, table: TableSpec) -> TensorSpec:
    """Return the specification of an input; a size that the graph does not state is the table's."""
    width = sum(column.width for column in table.by_input.get(tensor.name, ()))
    shape = tuple(size if isinstance(size, int) else width for size in tensor.shape[1:])
    return TensorSpec(
        name=tensor.name,
        datatype=datatype_of(file, "input", tensor),
        shape=(-1, *(shape if tensor.shape else (width,))),
        meaning="",
    )


def _converted(
    table: TableSpec, values: Mapping[str, list[Any]], inputs: Sequence[TensorSpec]
) -> dict[str, Any]:
    try:
        return table_inputs(table, values, inputs)
    except TableError as error:
        raise AddError(f"the sample does not fit: {error}") from error


def _require_equal(file: str, spec: TableSpec, arrays: Arrays, made: Arrays) -> None:
    """Check that the rows become what the export's own steps make of them.

    Raises:
        AddError: they do not.
    """
    for name, array in arrays.items():
        own = made.get(name)
        if own is None or own.size != array.size:
            shape = None if own is None else list(own.shape)
            raise AddError(
                f"{file}: the columns make {name} {list(array.shape)} of the sample, and the "
                f"transform makes {shape}: declare the columns that it makes"
            )
        own = own.reshape(array.shape)
        if array.dtype.kind == "f":
            scale = np.maximum(np.abs(own.astype(np.float64)), 1)
            equal = np.abs(array - own) <= TOLERANCE * scale
            equal |= np.isnan(array) & np.isnan(own)
        else:
            equal = array == own
        if not equal.all():
            row, *place = map(int, np.argwhere(~equal)[0])
            columns = [column.name for column in spec.by_input[name] for _ in range(column.width)]
            raise AddError(
                f"{file}: {columns[sum(place)]!r} in row {row + 1} of the sample becomes "
                f"{array[row, *place]!s} by the declared columns, and {own[row, *place]!s} "
                "by the transform: declare the column as the transform makes it"
            )
