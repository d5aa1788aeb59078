"""The dialects: how each protocol writes rows in a request, and predictions in a response.

A dialect is a module with `DIALECT`; a further one is a module and a line in `DIALECTS`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from models.kinds.answers import LabelsSpec
from models.kinds.split_rows import parts_of
from models.kinds.tokens import Text, Tokens
from models.package.card import ModelCard
from models.package.digits import fewest_digits
from service.batching.batch import Arrays
from service.errors import BadInputError, UnsupportedMediaError
from service.inference.bad_values import not_finite
from service.json_body import Body, may_hold_booleans


class Media(NamedTuple):
    """What a request says of its body and its response.

    Attributes:
        content_type: the type of the body in lower case, without parameters; "" if it has none.
        accept: the same of the response.
        header: the whole header Content-Type.
        max_pixels: the largest picture that is decoded.
    """

    content_type: str = ""
    accept: str = ""
    header: bytes = b""
    max_pixels: int = 0


class RowsRequest(NamedTuple):
    """A decoded request: the inputs of the model, and the form of the response.

    Attributes:
        inputs: by name; empty before texts are tokenized.
        form: of the response.
        labels: those that the request asks for; None for those of the card.
        texts: the rows, if the tokenizer of the package reads them.
        tokens: of each of these texts.
    """

    inputs: Arrays
    form: str = ""
    labels: LabelsSpec | None = None
    texts: Sequence[Text] = ()
    tokens: Sequence[Tokens] = ()


class Written(NamedTuple):
    """The body of a response, and its media type."""

    body: bytes
    media_type: bytes = b"application/json"


PREDICTIONS: Mapping[str, Any] = {"predictions": {"type": "array", "items": {}}}
"""The fields of most responses."""


@dataclass(frozen=True)
class Dialect:
    """One protocol.

    Attributes:
        name: of the module.
        endpoint: its path, where `{model}` stands for the name of a model; a path without it is for
            the default model. "" if a setting has the path.
        summary: what it does, for the API's description.
        read: the model's card, the body and its media types → the request.
        write: the model's card, the request and the outputs → the response.
        response: the fields of a response in JSON, as OpenAPI describes them.
    """

    name: str
    endpoint: str
    summary: str
    read: Callable[[ModelCard, Body, Media], RowsRequest]
    write: Callable[[ModelCard, RowsRequest, Arrays], Written]
    response: Mapping[str, Any]


def path_pattern(path: str) -> re.Pattern[str]:
    """Return a pattern of a path; `/versions/{version}` may follow `{model}`."""
    return re.compile(re.escape(path).replace(re.escape("{model}"), _MODEL))


_MODEL = r"(?P<model>[^/:]+)(/versions/(?P<version>[^/:]+))?"


def parse(body: Body, media: Media) -> tuple[Any, bool]:
    """Return a JSON body, and whether it may hold booleans.

    curl calls JSON a form, unless it is told otherwise.

    Raises:
        UnsupportedMediaError: the body is of another type.
        BadInputError: the body is no JSON.
    """
    if media.content_type not in ("", "application/json", "application/x-www-form-urlencoded"):
        raise UnsupportedMediaError(
            f"A body of the type {media.content_type[:100]!r} is not read here; send JSON.",
            ("Accept", "application/json"),
        )
    try:
        return orjson.loads(body), may_hold_booleans(body)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("Not enough memory"):
            raise MemoryError(error.msg) from None
        raise BadInputError(f"The body is not JSON: {error}.") from error


def json_object(body: Body, media: Media, *names: str) -> tuple[dict[str, Any], bool]:
    """Return a body that is an object with exactly one of these fields; others are ignored.

    Raises:
        ServiceError: as `parse` says, or the body is another value.
    """
    content, booleans = parse(body, media)
    if not isinstance(content, dict) or sum(name in content for name in names) != 1:
        wanted = " or ".join(map(repr, names))
        raise BadInputError(f"The body must be a JSON object with {wanted}.")
    return content, booleans


def to_json(card: ModelCard, request: RowsRequest, outputs: Arrays, content: Any) -> Written:
    """Return a response as JSON; arrays in it are written with the digits of their type.

    Raises:
        ServiceError: an output holds infinity or NaN, which JSON does not have.
    """
    for name, array in outputs.items():
        parts = [part for part in parts_of(array) if part.dtype.kind == "f"]
        if not all(np.isfinite(part).all() for part in parts):
            raise not_finite(card, request.inputs, name)
    return Written(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY, default=_texts))


def _texts(value: Any) -> Any:
    """Return an array of texts as lists, which orjson does not make of objects."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not written as JSON")


def example_of(card: ModelCard) -> dict[str, Any]:
    """Return the recorded example of a card as a request that every dialect takes."""
    if card.table is not None:
        return {"instances": list(card.table.example)}
    columns = {
        name: fewest_digits(one.array()) for name, one in card.rows_first.example.inputs.items()
    }
    if len(columns) == 1:
        return {"instances": next(iter(columns.values()))}
    rows = zip(*columns.values(), strict=True)
    return {"instances": [dict(zip(columns, row, strict=True)) for row in rows]}
