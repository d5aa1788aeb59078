"""The requests of the typed endpoints: fields, shapes and ranges, with a sentence for each error.

The inputs are BentoML descriptors, so that BentoML's clients and OpenAPI page know them. They parse
their requests themselves: BentoML's parser would fetch a URL in a file field. Errors are not raised
during parsing, as BentoML would respond 500; the endpoint gets them as `refusal`.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import bentoml
from bentoml.validators import ContentType
from pydantic import ConfigDict, Field
from starlette.requests import Request

from service.api.typed.fields import (
    Fields,
    InputField,
    check_fields,
    read_fields,
    read_large_fields,
    to_column,
    to_files,
    to_images,
    to_images_quickly,
    to_name,
    to_points,
)
from service.api.typed.forms import FEW_PARTS, read_form, read_large_form
from service.errors import UnsupportedMediaError
from service.http.body import read_body
from service.http.charsets import require_charset
from service.http.responses import Reply, Responder, in_a_task
from service.json_body import Body
from service.processes.jobs import LARGE_BYTES, is_large_json, run_job, whole
from service.settings import settings_of
from service.telemetry.request_context import RequestContext, current_request


class Arguments(SimpleNamespace):
    """The arguments of the endpoint for BentoML, or the `refusal` of a request.

    BentoML reads the names in `model_fields` and then the attributes, as of a pydantic model.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__(model_fields=tuple(fields), **fields)


class Input(bentoml.IODescriptor):  # type: ignore[misc]  # it is untyped
    """A JSON object with the fields of the subclass, and no others."""

    convert: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    convert_quickly: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    @classmethod
    def responder(cls, path: str, endpoint: Callable[..., Awaitable[Reply]]) -> Responder:
        """Return the responder that calls the endpoint at `path` with the fields of a body."""

        async def respond(context: RequestContext, body: Body) -> Reply:
            context.endpoint = path
            _require_json(context.headers)
            return await endpoint(**await cls.parse(body))

        return in_a_task(respond)

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Any:
        """Parse the request; an error becomes the field `refusal`."""
        try:
            return Arguments(**await cls.read(request))
        except Exception as error:  # noqa: BLE001 - the endpoint responds with it
            return Arguments(refusal=error)

    @classmethod
    async def read(cls, request: Request) -> dict[str, Any]:
        """Return the fields of the request, converted."""
        _require_json(dict(request.scope["headers"]))  # before the body is read
        return await cls.parse(await _body(request))

    @classmethod
    async def parse(cls, body: Body) -> dict[str, Any]:
        """Return the fields of a JSON body, converted."""
        if not is_large_json(body, len(body)):
            return read_fields(body, cls.fields())
        caller = current_request().caller
        return await run_job(caller, read_large_fields, whole(body), cls.fields())

    @classmethod
    @cache
    def fields(cls) -> Fields:
        """Return the fields, in the order of the class."""
        return {
            name: InputField(
                cls.convert[name],
                cls.convert_quickly.get(name),
                required=field.is_required(),
                default=None if field.is_required() else field.default,
            )
            for name, field in cls.model_fields.items()
        }


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
    """The x values of a curve."""

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
        """Return the fields of the form; files are bytes, and a name may have several files."""
        headers = dict(request.scope["headers"])
        if media_type(headers) != "multipart/form-data":
            raise UnsupportedMediaError(
                "Send the pictures as files in the field 'images' of multipart/form-data.",
                ("Accept", "multipart/form-data"),
            )
        content_type = headers[b"content-type"]
        require_charset(content_type)
        body = await _body(request)
        if len(body) <= LARGE_BYTES and body.count(b"\r\n--") <= FEW_PARTS:
            values = await read_form(body, content_type)
        else:
            caller = current_request().caller
            values = await run_job(caller, read_large_form, whole(body), content_type)
        content: dict[str, Any] = {}
        for name, value in values:
            if name == "images":
                content.setdefault(name, []).append(value)
            else:  # BentoML's client writes a text field as JSON
                content[name] = value.strip('"') if isinstance(value, str) else value
        return check_fields(content, cls.fields())


async def _body(request: Request) -> Body:
    headers = dict(request.scope["headers"])
    body = await read_body(headers, request.receive, settings_of(request.scope))
    current_request().receive = request.receive
    return body


def _require_json(headers: Mapping[bytes, bytes]) -> None:
    if headers.get(b"content-type") == b"application/json":
        return
    given_type = media_type(headers)
    if given_type not in ("application/json", ""):
        raise UnsupportedMediaError(
            f"Send the body as application/json, not {given_type[:100]}.",
            ("Accept", "application/json"),
        )


def media_type(headers: Mapping[bytes, bytes]) -> str:
    """Return the media type of a body without its parameters; empty if none is given."""
    return headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip().lower()
