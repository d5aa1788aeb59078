"""Rows of a request ↔ the arrays of a model's inputs, as pure functions.

A row is the value of a model's only input, or an object of a value for each input. A value is a
number, or a list nested as the shape of one row of the input. Each row has the value of an input
that the rows share. Columns are the inputs as the network has them.
"""

from collections.abc import Mapping, Sequence
from reprlib import repr as short_repr
from typing import Any

from models.kinds.tensor_spec import TensorSpec
from models.package.card import ModelCard
from service.api.rows.pictures import is_pictures, picture_rows
from service.api.v2.tensors import check_shape, from_json, with_rows_first
from service.batching.batch import Arrays
from service.errors import BadInputError


def inputs_of_rows(
    card: ModelCard, rows: Any, *, booleans: bool = True, max_pixels: int = 0
) -> Arrays:
    """Return the inputs in a list of rows.

    Args:
        card: of the model.
        rows: the list, as sent.
        booleans: whether the rows may hold `true` or `false`.
        max_pixels: the largest picture.

    Raises:
        BadInputError: the rows do not fit the inputs.
    """
    if not isinstance(rows, list) or not rows:
        raise BadInputError("The rows must be a list of one row or more, such as [[5.1, 3.5]].")
    require_rows_apart(card, len(rows))
    is_picture = len(card.inputs) == 1 and is_pictures(card.inputs[0], rows)
    if isinstance(rows[0], dict) and not (is_picture and "b64" in rows[0]):
        columns = _columns(card, rows)
        return _inputs(card.rows_first, columns, booleans=booleans, max_pixels=max_pixels)
    if len(card.inputs) > 1:
        raise BadInputError(
            f"A row must be an object with the inputs {_names(card)}, and is {short_repr(rows[0])}."
        )
    columns = {card.inputs[0].name: rows}
    return _inputs(card.rows_first, columns, booleans=booleans, max_pixels=max_pixels)


def require_rows_apart(card: ModelCard, rows: int) -> None:
    """Check that each of several rows has outputs of its own.

    Raises:
        BadInputError: the outputs belong to the whole computation.
    """
    whole = [spec.name for spec in card.outputs if spec.batch_axis is None]
    if rows > 1 and whole and card.batching == "none":
        raise BadInputError(
            f"Model {card.name!r} computes one row at a time, since {', '.join(whole)} does not "
            f"have one row for each: send {rows} requests of one row."
        )


def inputs_of_columns(
    card: ModelCard, columns: Mapping[str, Any], *, booleans: bool = True, max_pixels: int = 0
) -> Arrays:
    """Return the inputs, given as the network has them by their names, with the rows first.

    Raises:
        BadInputError: an input is unknown, missing, or does not fit.
    """
    arrays = _inputs(card, columns, booleans=booleans, max_pixels=max_pixels)
    return arrays if card.is_rows_first else with_rows_first(card, arrays)


def _inputs(
    card: ModelCard, columns: Mapping[str, Any], *, booleans: bool, max_pixels: int
) -> Arrays:
    """Return the inputs in lists of values by their names.

    Raises:
        BadInputError: an input is unknown, missing, or does not fit.
    """
    specs = {spec.name: spec for spec in card.inputs}
    for name in columns:
        if name not in specs:
            raise BadInputError(
                f"The model has no input {short_repr(name)}; it has {_names(card)}."
            )
    if missing := [name for name in specs if name not in columns]:
        raise BadInputError(f"The input {missing[0]!r} is missing; the inputs are {_names(card)}.")
    arrays = {
        name: picture_rows(spec, columns[name], max_pixels)
        if isinstance(columns[name], list) and is_pictures(spec, columns[name])
        else _array(spec, columns[name], booleans=booleans)
        for name, spec in specs.items()
    }
    if card.is_rows_first and len({len(array) for array in arrays.values()}) > 1:
        raise BadInputError("The inputs have different numbers of rows.")
    return arrays


def _columns(card: ModelCard, rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the values of rows, which are objects, by name."""
    names = dict.fromkeys(spec.name for spec in card.inputs)
    for row in rows:
        if not isinstance(row, dict) or row.keys() != names.keys():
            raise BadInputError(
                f"Each row must be an object with the inputs {_names(card)}, and one is "
                f"{short_repr(row)}."
            )
    return {name: [row[name] for row in rows] for name in names}


def _array(spec: TensorSpec, values: Any, *, booleans: bool) -> Any:
    if spec.batch_axis != 0:
        shape = check_shape(spec, _sizes(values))
        return from_json(
            spec, shape, values if isinstance(values, list) else [values], booleans=booleans
        )
    if not isinstance(values, list):
        raise BadInputError(f"The input {spec.name!r} must be a list of one value for each row.")
    inner = _sizes(values[0]) if values else []
    if len(inner) < len(spec.shape) - 1 and -1 not in spec.shape[1:]:
        inner = list(spec.shape[1:])  # a number for a row of one number, or a flat list for a row
    shape = check_shape(spec, [len(values), *inner])
    return from_json(spec, shape, _flattened(values, inner), booleans=booleans)


def _flattened(values: list[Any], inner: Sequence[int]) -> list[Any]:
    """Return flat rows of several dimensions in one list; other values as they are."""
    is_flat = isinstance(values[0], list) and not any(isinstance(one, list) for one in values[0])
    if len(inner) < 2 or not is_flat:
        return values
    count = len(values[0])
    if any(not isinstance(row, list) or len(row) != count for row in values):
        return values
    return [value for row in values for value in row]


def _sizes(value: Any) -> list[int]:
    """Return the sizes of nested lists, of the first element at each level."""
    sizes = []
    while isinstance(value, list):
        sizes.append(len(value))
        value = value[0] if value else None
    return sizes


def _names(card: ModelCard) -> str:
    return ", ".join(repr(spec.name) for spec in card.inputs)
