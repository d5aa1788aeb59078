"""What the typed endpoints take: shapes and ranges, and the sentence for each that is wrong.

The inputs are BentoML descriptors, so that its clients and its OpenAPI page know them, but they
read their requests themselves: BentoML's own reader would fetch a URL that stands in a file field.
What is wrong with a request is not raised while it is read, where BentoML would answer 500; it
reaches the endpoint as a `refusal`.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import bentoml
import numpy as np
from bentoml.validators import ContentType
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from service.errors import BadInputError, UnsupportedMediaError
from service.http.body import read_body
from service.http.charsets import require_charset
from service.http.endpoint import Reply, Responder, in_a_task, may_hold_booleans, parse_json
from service.http.exchange import Exchange, current
from service.settings import current_settings


class Fields(SimpleNamespace):
    """What BentoML hands on to the endpoint: its arguments, or the `refusal` of a request.

    BentoML reads the names in `model_fields` and then the attributes, as of a pydantic model.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__(model_fields=tuple(fields), **fields)


class Input(bentoml.IODescriptor):  # type: ignore[misc]  # it is untyped
    """A JSON object with the fields of the subclass, and no others."""

    convert: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    convert_quickly: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    @classmethod
    def responder(cls, endpoint: Callable[..., Awaitable[Reply]]) -> Responder:
        """What answers a whole body as `endpoint` does, with no request between them."""

        async def respond(exchange: Exchange, body: bytes) -> Reply:
            try:
                _require_json(exchange.headers)
                fields = cls.parse(body)
            except Exception as error:  # noqa: BLE001 - the endpoint answers it
                fields = {"refusal": error}
            return await endpoint(**fields)

        return in_a_task(respond)

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Any:
        """Read the request; what is wrong with it comes back as the field `refusal`."""
        try:
            return Fields(**await cls.read(request))
        except Exception as error:  # noqa: BLE001 - the endpoint answers it
            return Fields(refusal=error)

    @classmethod
    async def read(cls, request: Request) -> dict[str, Any]:
        """The fields of the request, converted."""
        _require_json(dict(request.scope["headers"]))  # before its body is awaited
        return cls.parse(await _body(request))

    @classmethod
    def parse(cls, body: bytes | bytearray) -> dict[str, Any]:
        """The fields of a JSON body, converted."""
        content = parse_json(body)
        return cls.check(content, {} if may_hold_booleans(body) else cls.convert_quickly)

    @classmethod
    def check(
        cls, content: Mapping[str, Any], convert: Mapping[str, Callable[[Any], Any]]
    ) -> dict[str, Any]:
        """The fields of `content`; none is unknown, and none that is needed is missing.

        Args:
            content: the fields as sent.
            convert: how to convert some of them; the others are converted as the class says.
        """
        known = cls._fields()
        for name in content:
            if name not in known:
                raise BadInputError(
                    f"There is no field {name[:100]!r}; the fields are: {', '.join(known)}."
                )
        fields = {}
        for name, (required, default) in known.items():
            if required and name not in content:
                raise BadInputError(f"The field {name!r} is missing.")
            fields[name] = convert.get(name, cls.convert[name])(content.get(name, default))
        return fields

    @classmethod
    @cache
    def _fields(cls) -> Mapping[str, tuple[bool, Any]]:
        """Each field: whether it is needed, and its default."""
        return {
            name: (field.is_required(), field.default) for name, field in cls.model_fields.items()
        }


def to_images(value: Any) -> NDArray[np.uint8]:
    """N x 28 x 28 or N x 784 whole numbers, 0 to 255 → uint8 [N, 28, 28]."""
    array = _array("images", value, {int}, "whole numbers, from 0 to 255")
    if array.shape[1:] not in ((28, 28), (784,)):
        raise BadInputError(
            f"The field 'images' has the shape {list(array.shape)}; send [N, 28, 28] or [N, 784]."
        )
    if array.min() < 0 or array.max() > 255:
        raise BadInputError(
            f"The field 'images' holds numbers from {array.min():g} to {array.max():g}; "
            "pixels are from 0 to 255."
        )
    return array.astype(np.uint8).reshape(-1, 28, 28)


def to_images_quickly(value: Any) -> NDArray[np.uint8]:
    """As `to_images`, where the body holds no `true` and no `false`, to Python 1 and 0."""
    # What is wrong with an input, the slow one tells.
    with suppress(TypeError, ValueError, LookupError):
        rows, width = value, 784
        if type(value[0][0]) is list and _are_lists(value, 28):
            rows, width = list(chain.from_iterable(value)), 28
        if _are_lists(rows, width):
            return np.frombuffer(b"".join(map(bytearray, rows)), np.uint8).reshape(-1, 28, 28)
    return to_images(value)


def _are_lists(values: list[Any], length: int) -> bool:
    return set(map(type, values)) == {list} and set(map(len, values)) == {length}


def to_column(value: Any) -> NDArray[np.float32]:
    """N finite numbers → float32 [N, 1]."""
    array = _finite("x", value)
    if array.ndim != 1:
        raise BadInputError(f"The field 'x' has the shape {list(array.shape)}; send [N].")
    return array.reshape(-1, 1)


def to_points(value: Any) -> NDArray[np.float32]:
    """N pairs of finite numbers → float32 [N, 2]."""
    array = _finite("points", value)
    if array.ndim != 2 or array.shape[1] != 2:
        raise BadInputError(f"The field 'points' has the shape {list(array.shape)}; send [N, 2].")
    return array


def to_files(value: list[Any]) -> list[bytes]:
    """What stands in a form's file field → the content of each file."""
    if not all(isinstance(part, bytes) for part in value):
        raise BadInputError("The field 'images' must hold files; text and addresses are not read.")
    return value


def to_name(value: Any) -> str:
    """A model's name."""
    if not isinstance(value, str):
        raise BadInputError("The field 'model' must be the name of a model.")
    return value


def _array(field: str, value: Any, types: set[type], said: str) -> NDArray[np.float64]:
    if not isinstance(value, list) or not value:
        raise BadInputError(f"The field {field!r} must be a list with at least one row.")
    # By way of objects: numpy itself would take `true` for 1, and give every element the room of
    # the longest string among them.
    objects = np.array(value, dtype=object)
    found = set(map(type, objects.ravel()))
    if list in found:
        raise BadInputError(f"The rows of the field {field!r} must all have one shape.")
    if not found <= types:
        raise BadInputError(f"The field {field!r} must hold {said}.")
    return objects.astype(np.float64)


def _finite(field: str, value: Any) -> NDArray[np.float32]:
    array = _array(field, value, {int, float}, "numbers")
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise BadInputError(f"The field {field!r} holds a number too large for single precision.")
    return single


_BLANK, _BAR = [0] * 28, [0] * 13 + [255] * 2 + [0] * 13
_ONE: list[Any] = [_BAR if 4 <= row < 24 else _BLANK for row in range(28)]


class DigitsInput(Input):
    """Images in MNIST's framing: white ink on black, in a 20-pixel box, centred by mass."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"images": [_ONE], "model": "mnist-cnn"}}
    )
    convert: ClassVar = {"images": to_images, "model": to_name}
    convert_quickly: ClassVar = {"images": to_images_quickly}

    images: list[list[list[int]]] = Field(
        description="N x 28 x 28, or N x 784: whole numbers from 0, black, to 255, white"
    )
    model: str = Field("mnist-cnn", description="which model answers")


class CurveInput(Input):
    """Where to evaluate a curve."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"x": [0, 5, 10.5], "model": "curve-tanh"}}
    )
    convert: ClassVar = {"x": to_column, "model": to_name}

    x: list[float] = Field(description="finite numbers; the networks were fitted on 0 to 20")
    model: str = Field("curve-tanh", description="which model answers")


class PointsInput(Input):
    """Points in the plane."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"points": [[0.0, 1.0], [1.0, -0.5]], "model": "moons-tanh"}}
    )
    convert: ClassVar = {"points": to_points, "model": to_name}

    points: list[list[float]] = Field(description="N x 2 finite numbers")
    model: str = Field("moons-tanh", description="which model answers")


class PicturesInput(Input):
    """Pictures of one digit each, of any size and colour."""

    convert: ClassVar = {"images": to_files, "model": to_name}

    images: list[Annotated[Path, ContentType("image/*")]] = Field(
        description="PNG, JPEG, WebP, BMP or GIF files"
    )
    model: str = Field("mnist-cnn", description="which model answers")

    @classmethod
    async def read(cls, request: Request) -> dict[str, Any]:
        """The fields of the form; a file is its bytes, and there may be several under one name."""
        headers = dict(request.scope["headers"])
        if media_type(headers) != "multipart/form-data":
            raise UnsupportedMediaError(
                "Send the pictures as files in the field 'images' of multipart/form-data.",
                ("Accept", "multipart/form-data"),
            )
        content_type = headers[b"content-type"]
        require_charset(content_type)
        # Of several headers the parser would take the first: it gets the one that was checked.
        scope = {**request.scope, "headers": [(b"content-type", content_type)]}
        body = bytes(await _body(request))

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        content: dict[str, Any] = {}
        try:
            async with Request(scope, receive).form(max_files=1_000) as form:
                for name, value in form.multi_items():
                    if name == "images":
                        found = await value.read() if isinstance(value, UploadFile) else value
                        content.setdefault(name, []).append(found)
                    else:  # BentoML's client writes a text field as JSON
                        content[name] = value.strip('"') if isinstance(value, str) else value
        except HTTPException as error:
            raise BadInputError(f"The form cannot be read: {error.detail}") from error
        return cls.check(content, {})


async def _body(request: Request) -> bytes | bytearray:
    headers = dict(request.scope["headers"])
    body = await read_body(headers, request.receive, current_settings())
    current().receive = request.receive
    return body


def _require_json(headers: Mapping[bytes, bytes]) -> None:
    if headers.get(b"content-type") == b"application/json":
        return
    found = media_type(headers)
    if found not in ("application/json", ""):
        raise UnsupportedMediaError(
            f"Send the body as application/json, not {found[:100]}.", ("Accept", "application/json")
        )


def media_type(headers: Mapping[bytes, bytes]) -> str:
    """The media type of a body, without its parameters; empty where none is given."""
    return headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip().lower()
