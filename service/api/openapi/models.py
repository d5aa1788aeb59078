"""The paths of the loaded models, each described by its card, with an example that works."""

import json
from collections.abc import Mapping
from typing import Any

from models.kinds.tensor_spec import TensorSpec
from models.package.card import ModelCard
from models.package.digits import fewest_digits
from service.api.openapi.parts import failures, json_body, operation
from service.api.rows.dialects import RowsRequest, example_of
from service.api.rows.pictures import EXAMPLE_PICTURE, FORM, is_picture_model
from service.api.rows.predict import DIALECT as PREDICT
from service.api.rows.tables import row_schema
from service.api.rows.texts import PAIR, TEXT, row_of
from service.errors import ServiceError

LONGEST_EXAMPLE = 2_000
"""The most values of an example in the description."""


def model_path(card: ModelCard) -> dict[str, Any]:
    """Return the path of a model's predictions."""
    described = operation(card.summary, PREDICT.response)
    if (answer := _answer(card)) is not None:
        described["responses"]["200"]["content"]["application/json"]["example"] = answer
    described["requestBody"] = json_body(_instances(card))
    if is_picture_model(card):
        described["requestBody"]["content"][FORM] = {"schema": _FILES}
    described["responses"] |= failures(ServiceError)
    return {"post": described}


def rows_example(card: ModelCard) -> dict[str, Any] | None:
    """Return a request that every dialect takes; None if it would be too long."""
    if is_picture_model(card):
        return {"instances": [{"b64": EXAMPLE_PICTURE}] * (card.fixed_batch or 1)}
    if card.text is not None:
        return {"instances": [row_of(card.text.example)]}
    return example_of(card) if _is_short(card) else None


def tensors_example(card: ModelCard) -> dict[str, Any] | None:
    """Return a request of the V2 protocol; None if it would be too long, or has BF16 in binary."""
    has_bfloat16 = any(spec.datatype == "BF16" for spec in (*card.inputs, *card.outputs))
    if has_bfloat16 or not _is_short(card):
        return None
    inputs = [
        {
            "name": name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "data": fewest_digits(tensor.array().ravel()),
        }
        for name, tensor in card.example.inputs.items()
    ]
    return {
        "id": "1",
        "parameters": {"timeout": 1_000_000},
        "inputs": inputs,
        "outputs": [{"name": spec.name} for spec in card.outputs],
    }


def _answer(card: ModelCard) -> Any:
    """Return the response to the recorded example; None if it would be too long, or is a text."""
    if card.text is not None:  # the example has token numbers
        return None
    example = card.rows_first.example
    outputs = {name: tensor.array() for name, tensor in example.outputs.items()}
    if sum(array.size for array in outputs.values()) > LONGEST_EXAMPLE:
        return None
    return json.loads(PREDICT.write(card, RowsRequest({}), outputs).body)


def _is_short(card: ModelCard) -> bool:
    return sum(len(tensor.data) for tensor in card.example.inputs.values()) <= LONGEST_EXAMPLE


def _instances(card: ModelCard) -> dict[str, Any]:
    """Return the schema of a model's rows, with an example if that is not too long."""
    values = {spec.name: _value(spec) for spec in card.inputs}
    row: dict[str, Any] = {"type": "object", "required": list(values), "properties": values}
    if len(values) == 1:
        (row,) = values.values()
    if card.table is not None:
        row = row_schema(card.table)
    if card.text is not None:
        row = {"oneOf": [_TEXT, _PAIR, row]}
    instances = {"type": "array", "minItems": 1, "items": row, "description": "rows"}
    properties: dict[str, Any] = {"instances": instances}
    if any(spec.labels for spec in card.outputs):
        properties["parameters"] = _LABELS
    schema = {"type": "object", "required": ["instances"], "properties": properties}
    example = rows_example(card)
    return schema if example is None else {**schema, "example": example}


def _value(spec: TensorSpec) -> dict[str, Any]:
    """Return the schema of one row of an input."""
    meaning = "" if spec.meaning == "not stated" else f"{spec.meaning}; "
    description = f"{meaning}{spec.to_text()}"
    numbers = {**_numbers(spec), "description": description}
    return {"oneOf": [_PICTURE, numbers], "description": description} if spec.picture else numbers


def _numbers(spec: TensorSpec) -> dict[str, Any]:
    kinds = {"f": "number", "b": "boolean", "O": "string"}
    schema: dict[str, Any] = {"type": kinds.get(spec.dtype.kind, "integer")}
    for size in reversed(spec.row_shape):
        schema = {"type": "array", "items": schema}
        if size != -1:
            schema |= {"minItems": size, "maxItems": size}
    return schema


_LABELS: Mapping[str, Any] = {
    "type": "object",
    "description": "which labels are answered, in place of those of the card",
    "properties": {
        "top": {"type": "integer", "minimum": 1, "description": "the K best scores"},
        "threshold": {"type": "number", "description": "the lowest score"},
    },
}
_TEXT: Mapping[str, Any] = {"type": "string", "description": "a text"}
_PAIR: Mapping[str, Any] = {
    "type": "object",
    "required": [TEXT],
    "properties": {TEXT: _TEXT, PAIR: {"type": "string", "description": "the second text"}},
    "additionalProperties": False,
}
_PICTURE: Mapping[str, Any] = {
    "type": "object",
    "required": ["b64"],
    "properties": {"b64": {"type": "string", "description": "a picture's file in base64"}},
}
_FILES: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "pictures": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "the files, one for each row",
        }
    },
}
