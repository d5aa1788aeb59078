"""Requests of the typed endpoints: valid fields, and the errors for invalid ones."""

import asyncio
import codecs
import copy
import encodings
import json
import pickle
import re
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from service.api.typed.requests import CurveInput, DigitsInput, Input, PicturesInput, PointsInput
from service.errors import BadInputError, BodyTooLargeError, ServiceError, UnsupportedMediaError
from service.http.charsets import CHARSETS
from service.settings import SCOPE_KEY, Settings

JSON = "application/json"
BLANK = [[0] * 28 for _ in range(28)]
FLAT = [0] * 784
BELOW = np.iinfo(np.int64).min
PICTURE = ("images", ("a.png", b"any bytes", "image/png"))

pytestmark = pytest.mark.usefixtures("pool")

DEFAULTS, HUNDRED_BYTES = Settings(), Settings(max_body_bytes=100)

property_test = settings(deadline=None, derandomize=True, database=None, max_examples=200)


class Sent:
    """A request that arrives in chunks."""

    def __init__(
        self,
        body: bytes,
        headers: dict[str, str],
        chunk: int,
        cut: bool,
        settings: Settings = DEFAULTS,
    ) -> None:
        step = range(0, max(len(body), 1), chunk)
        self._messages: Iterator[Message] = iter(
            [
                {"type": "http.request", "body": body[at : at + chunk], "more_body": True}
                for at in step
            ]
            + [{"type": "http.disconnect"} if cut else {"type": "http.request", "body": b""}]
        )
        self.received = 0
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": raw, "app": None}
        scope[SCOPE_KEY] = settings
        self.request = Request(scope, self._receive)

    async def _receive(self) -> Message:
        self.received += 1
        return next(self._messages)


async def read(kind: type[Input], sent: Sent) -> dict[str, Any]:
    """Return the fields that the endpoint gets, or raise its error."""
    parsed = await kind.from_http_request(sent.request, None)
    if "refusal" in parsed.model_fields:
        raise parsed.refusal
    return {name: getattr(parsed, name) for name in parsed.model_fields}


async def ask(
    kind: type[Input],
    body: bytes,
    content_type: str | None = JSON,
    *,
    headers: dict[str, str] | None = None,
    chunk: int = 1 << 20,
    cut: bool = False,
    settings: Settings = DEFAULTS,
) -> dict[str, Any]:
    given_type = {} if content_type is None else {"content-type": content_type}
    return await read(kind, Sent(body, given_type | (headers or {}), chunk, cut, settings))


async def ask_json(kind: type[Input], content: object) -> dict[str, Any]:
    return await ask(kind, json.dumps(content).encode())


def form(*files: Any, **data: Any) -> tuple[bytes, str]:
    """Return a multipart body and its content type; a file is (field, (name, content, type))."""
    texts = [(name, (None, text)) for name, text in data.items()]
    headers = {"Content-Type": "multipart/form-data; boundary=boundary-of-a-form"}
    request = httpx.Request("POST", "http://host", headers=headers, files=[*files, *texts])
    return request.read(), request.headers["content-type"]


def assert_one_sentence(error: BaseException) -> None:
    assert re.fullmatch(r"[A-Z][^\n]{10,400}\.", str(error)), str(error)


def assert_refused(error: ServiceError) -> None:
    assert 400 <= error.status < 500
    assert_one_sentence(error)


def one_pixel(value: object) -> dict[str, Any]:
    image: list[list[Any]] = copy.deepcopy(BLANK)
    image[3][4] = value
    return {"images": [BLANK, image]}


def nested(depth: int) -> list[Any]:
    value: list[Any] = [1]
    for _ in range(depth - 1):
        value = [value]
    return value


# Accepted requests.


@pytest.mark.parametrize("sent", [[BLANK, BLANK], [FLAT, FLAT]], ids=["N x 28 x 28", "N x 784"])
async def test_images_are_squares_or_rows(sent: list[Any]) -> None:
    images = (await ask_json(DigitsInput, {"images": sent}))["images"]
    assert images.shape == (2, 28, 28)
    assert images.dtype == np.uint8


async def test_pixels_keep_their_positions() -> None:
    pixels = np.arange(2 * 784).reshape(2, 28, 28) % 256
    for shape in ((2, 28, 28), (2, 784)):
        images = (await ask_json(DigitsInput, {"images": pixels.reshape(shape).tolist()}))["images"]
        np.testing.assert_array_equal(images, pixels)


async def test_whole_and_other_numbers_become_single_precision() -> None:
    x = (await ask_json(CurveInput, {"x": [1, 2.5, -3e38, 2**64 - 1, 10**30, 1e-60]}))["x"]
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x[:, 0], np.array([1, 2.5, -3e38, 2**64, 1e30, 0], np.float32))
    points = (await ask_json(PointsInput, {"points": [[1, 2.5], [-3, 4]]}))["points"]
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, np.array([[1, 2.5], [-3, 4]], np.float32))


@pytest.mark.parametrize(
    ("kind", "content", "model"),
    [
        (DigitsInput, {"images": [BLANK]}, "mnist-cnn"),
        (CurveInput, {"x": [1]}, "curve-tanh"),
        (PointsInput, {"points": [[1, 2]]}, "moons-tanh"),
    ],
)
async def test_the_model_has_a_default(
    kind: type[Input], content: dict[str, Any], model: str
) -> None:
    assert (await ask_json(kind, content))["model"] == model
    assert (await ask_json(kind, content | {"model": "another"}))["model"] == "another"


@pytest.mark.parametrize("content_type", [None, "", "Application/JSON", JSON + "; charset=utf-8"])
async def test_json_is_accepted_in_any_spelling_of_its_type(content_type: str | None) -> None:
    assert (await ask(CurveInput, b'{"x": [1]}', content_type))["x"] == [[1]]


async def test_a_body_may_have_many_chunks() -> None:
    body = json.dumps({"images": [BLANK]}).encode()
    assert (await ask(DigitsInput, body, chunk=7))["images"].shape == (1, 28, 28)


async def test_a_form_may_have_several_files_under_one_name_in_order() -> None:
    files = [("images", (f"{number}.png", b"%d" % number, "image/png")) for number in range(20)]
    fields = await ask(PicturesInput, *form(*files, model="mnist-mlp"))
    assert fields == {"images": [b"%d" % number for number in range(20)], "model": "mnist-mlp"}


async def test_a_form_needs_no_model_and_a_file_no_name_or_type() -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename=""\r\n\r\nxy\r\n--b--\r\n'
    )
    fields = await ask(PicturesInput, body, "multipart/form-data; boundary=b")
    assert fields == {"images": [b"xy"], "model": "mnist-cnn"}


async def test_a_text_field_in_the_format_of_bentomls_client_is_accepted() -> None:
    assert (await ask(PicturesInput, *form(PICTURE, model='"mnist-mlp"')))["model"] == "mnist-mlp"


# Refusals with a sentence that says what to change.

BAD_DIGITS: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "'images' is missing"),
    "null": ({"images": None}, "must be a list with at least one row"),
    "a number": ({"images": 5}, "must be a list with at least one row"),
    "a text": ({"images": "0" * 784}, "must be a list with at least one row"),
    "an object": ({"images": {"0": BLANK}}, "must be a list with at least one row"),
    "no image": ({"images": []}, "must be a list with at least one row"),
    "an image without its batch": ({"images": BLANK}, "shape [28, 28]; send [N, 28, 28]"),
    "a row without its batch": ({"images": FLAT}, "shape [784]; send"),
    "empty images": ({"images": [[], []]}, "shape [2, 0]; send"),
    "emptier images": ({"images": [[[]]]}, "shape [1, 1, 0]; send"),
    "27 rows": ({"images": [BLANK[:27]]}, "shape [1, 27, 28]; send"),
    "785 pixels": ({"images": [[*FLAT, 0]]}, "shape [1, 785]; send"),
    "a channel": ({"images": [[BLANK]]}, "shape [1, 1, 28, 28]; send"),
    "a short row": ({"images": [[*BLANK[:27], [0] * 27]]}, "must all have one shape"),
    "two kinds of image": ({"images": [BLANK, FLAT]}, "must all have one shape"),
    "deep nesting": ({"images": nested(60)}, "shape [1, 1"),
    "deeper nesting": ({"images": nested(70)}, "must all have one shape"),
    "a nested pixel": (one_pixel([0]), "must all have one shape"),
    "a half": (one_pixel(0.5), "must hold whole numbers, from 0 to 255"),
    "a whole float": (one_pixel(7.0), "must hold whole numbers, from 0 to 255"),
    "a text pixel": (one_pixel("7"), "must hold whole numbers, from 0 to 255"),
    "a boolean pixel": (one_pixel(True), "must hold whole numbers, from 0 to 255"),
    "a null pixel": (one_pixel(None), "must hold whole numbers, from 0 to 255"),
    "an object pixel": (one_pixel({}), "must hold whole numbers, from 0 to 255"),
    "only booleans": ({"images": [[True] * 784]}, "must hold whole numbers, from 0 to 255"),
    "256": (one_pixel(256), "holds numbers from 0 to 256; pixels are from 0 to 255"),
    "-1": (one_pixel(-1), "holds numbers from -1 to 0; pixels are from 0 to 255"),
    "the largest integer": (one_pixel(2**64 - 1), "from 0 to 1.84467e+19; pixels are"),
    "the smallest integer": (one_pixel(BELOW), "from -9.22337e+18 to 0; pixels are"),
    "more than an integer": (one_pixel(10**30), "must hold whole numbers, from 0 to 255"),
    "a misspelt field": ({"image": [BLANK]}, "no field 'image'; the fields are: images, model"),
    "a field too many": ({"images": [BLANK], "top_k": 3}, "no field 'top_k'; the fields are"),
    "BentoML's own field": ({"images": [BLANK], "refusal": None}, "no field 'refusal'"),
    "a null model": ({"images": [BLANK], "model": None}, "'model' must be the name of a model"),
    "a model by number": ({"images": [BLANK], "model": 1}, "'model' must be the name of a model"),
    "two models": ({"images": [BLANK], "model": ["a"]}, "'model' must be the name of a model"),
}
BAD_CURVES: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "'x' is missing"),
    "null": ({"x": None}, "must be a list with at least one row"),
    "a number": ({"x": 3}, "must be a list with at least one row"),
    "a text": ({"x": "3"}, "must be a list with at least one row"),
    "no number": ({"x": []}, "must be a list with at least one row"),
    "a column": ({"x": [[1], [2]]}, "shape [2, 1]; send [N]"),
    "empty rows": ({"x": [[]]}, "shape [1, 0]; send [N]"),
    "a nested number": ({"x": [1, [2]]}, "must all have one shape"),
    "a text number": ({"x": [1, "2"]}, "must hold numbers"),
    "a null": ({"x": [1, None]}, "must hold numbers"),
    "a boolean": ({"x": [1, True]}, "must hold numbers"),
    "an object": ({"x": [{"x": 1}]}, "must hold numbers"),
    "too large": ({"x": [0, 1e39]}, "too large for single precision"),
    "too small": ({"x": [-1e300]}, "too large for single precision"),
    "a field of another endpoint": ({"x": [1], "points": []}, "no field 'points'"),
    "an empty field": ({"x": [1], "": 1}, "no field ''"),
}
BAD_POINTS: dict[str, tuple[Any, str]] = {
    "nothing": ({"model": "moons-tanh"}, "'points' is missing"),
    "no point": ({"points": []}, "must be a list with at least one row"),
    "a point without its batch": ({"points": [1, 2]}, "shape [2]; send [N, 2]"),
    "one coordinate": ({"points": [[1]]}, "shape [1, 1]; send [N, 2]"),
    "three coordinates": ({"points": [[1, 2, 3]]}, "shape [1, 3]; send [N, 2]"),
    "no coordinate": ({"points": [[], []]}, "shape [2, 0]; send [N, 2]"),
    "a batch of batches": ({"points": [[[1, 2]]]}, "shape [1, 1, 2]; send [N, 2]"),
    "ragged": ({"points": [[1, 2], [3]]}, "must all have one shape"),
    "objects": ({"points": [{"x": 1, "y": 2}]}, "must hold numbers"),
    "texts": ({"points": [["1", "2"]]}, "must hold numbers"),
    "a null": ({"points": [[1, None]]}, "must hold numbers"),
    "a boolean": ({"points": [[1, False]]}, "must hold numbers"),
    "too large": ({"points": [[0, 1e39]]}, "too large for single precision"),
}


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        pytest.param(kind, *case, id=f"{kind.__name__}: {name}")
        for kind, cases in (
            (DigitsInput, BAD_DIGITS),
            (CurveInput, BAD_CURVES),
            (PointsInput, BAD_POINTS),
        )
        for name, case in cases.items()
    ],
)
async def test_a_bad_field_is_refused_with_what_to_change(
    kind: type[Input], content: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError) as refused:
        await ask_json(kind, content)
    assert message in str(refused.value)
    assert_one_sentence(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"x=1",
        b'{"x": [NaN]}',
        b'{"x": [Infinity]}',
        b'{"x": [1e400]}',
        b'{"x": [1,]}',
        b"{'x': [1]}",
        b'{"x": "\xff"}',
        b'{"x": "\\ud800"}',
        b'\xef\xbb\xbf{"x": [1]}',
        '{"x": [1]}'.encode("utf-16"),
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x": ' * 10_000,
        pickle.dumps({"x": [1]}),
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadInputError, match=r"^The body is not JSON: ") as refused:
        await ask(CurveInput, body)
    assert_one_sentence(refused.value)


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("lists", b'{"x": [' + b"[]," * 1_000_000 + b"[]]}"),
        ("objects", b'{"x": ' * 100_000),
        ("strings", b'{"x": [' + b'"",' * 100_000 + b'""]}'),
    ],
)
async def test_too_many_values_that_are_not_numbers_are_refused(what: str, body: bytes) -> None:
    with pytest.raises(BadInputError, match=f"^The body has too many {what}; ") as refused:
        await ask(CurveInput, body)
    assert_one_sentence(refused.value)


@pytest.mark.parametrize("body", [b"[]", b"[1, 2]", b"null", b"true", b"3", b'"x"', b'[{"x": 1}]'])
async def test_json_that_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadInputError, match="must be a JSON object"):
        await ask(CurveInput, body)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/octet-stream",
        "application/vnd.bentoml+pickle",
        "application/x-www-form-urlencoded",
        "application/json2",
        "json",
        "multipart/form-data; boundary=x",
        "text/plain",
    ],
)
async def test_another_media_type_than_json_is_refused_by_name(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaError, match="Send the body as application/json, not") as no:
        await ask(CurveInput, b'{"x": [1]}', content_type)
    assert no.value.headers == (("Accept", "application/json"),)


async def test_a_sentence_does_not_repeat_a_long_request() -> None:
    with pytest.raises(BadInputError) as refused:
        await ask_json(CurveInput, {"n" * 10_000: 1})
    assert_one_sentence(refused.value)


async def test_one_long_text_does_not_take_its_length_for_each_element() -> None:
    value = ["x" * 100_000] + ["y"] * 500  # numpy would allocate 200 MB
    tracemalloc.start()
    with pytest.raises(BadInputError, match="must hold numbers"):
        await ask_json(CurveInput, {"x": value})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


# The size of bodies.


@pytest.mark.parametrize("kind", [CurveInput, PicturesInput])
async def test_a_body_whose_declared_length_is_too_large_is_refused_unread(
    kind: type[Input],
) -> None:
    content_type = JSON if kind is CurveInput else "multipart/form-data; boundary=b"
    sent = Sent(
        b" " * 101,
        {"content-type": content_type, "content-length": "101"},
        10,
        False,
        HUNDRED_BYTES,
    )
    with pytest.raises(BodyTooLargeError, match="larger than 100 bytes") as refused:
        await read(kind, sent)
    assert sent.received == 0
    assert_one_sentence(refused.value)


@pytest.mark.parametrize("length", [{}, {"content-length": "10"}], ids=["undeclared", "a lie"])
@pytest.mark.parametrize("kind", [CurveInput, PicturesInput])
async def test_a_body_that_exceeds_the_limit_is_not_read_to_its_end(
    kind: type[Input], length: dict[str, str]
) -> None:
    content_type = JSON if kind is CurveInput else "multipart/form-data; boundary=b"
    sent = Sent(b" " * 1000, {"content-type": content_type} | length, 10, False, HUNDRED_BYTES)
    with pytest.raises(BodyTooLargeError, match="larger than 100 bytes"):
        await read(kind, sent)
    assert sent.received == 11


async def test_a_body_of_exactly_the_limit_is_accepted() -> None:
    body = b'{"x": [1]}'.ljust(100)
    headers = {"content-length": "100"}
    fields = await ask(CurveInput, body, headers=headers, settings=HUNDRED_BYTES)
    assert fields["x"] == [[1]]
    with pytest.raises(BodyTooLargeError):
        await ask(CurveInput, body + b" ", settings=HUNDRED_BYTES)


async def test_an_incomplete_body_is_refused() -> None:
    with pytest.raises(BadInputError, match="ended before its body did"):
        await ask(CurveInput, b'{"x": [1]}', cut=True)


# Forms.


@pytest.mark.parametrize("text", ["http://127.0.0.1:9/seven.png", "file:///etc/passwd", "", "7"])
async def test_a_text_or_a_url_in_place_of_a_file_is_refused(text: str) -> None:
    for files in ((), (PICTURE,)):
        with pytest.raises(BadInputError, match="must hold files; text and addresses") as refused:
            await ask(PicturesInput, *form(*files, images=text))
        assert_one_sentence(refused.value)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (form(model="mnist-cnn"), "'images' is missing"),
        (form(("image", PICTURE[1])), "no field 'image'; the fields are: images, model"),
        (form(PICTURE, top_k="3"), "no field 'top_k'"),
        (form(PICTURE, ("model", ("m", b"mnist-cnn"))), "'model' must be the name of a model"),
        (form(*[PICTURE] * 1001), "The form cannot be read: Too many files"),
        (form(PICTURE, **{f"f{number}": "" for number in range(1001)}), "Too many fields"),
        (form(PICTURE, model="x" * 1_100_000), "The form cannot be read: "),
    ],
    ids=[
        "no file",
        "misspelt",
        "a field too many",
        "model as a file",
        "1,001 files",
        "1,001 fields",
        "a long text",
    ],
)
async def test_a_bad_form_is_refused_with_what_to_change(
    sent: tuple[bytes, str], message: str
) -> None:
    with pytest.raises(BadInputError) as refused:
        await ask(PicturesInput, *sent)
    assert message in str(refused.value)
    assert_one_sentence(refused.value)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"any", "multipart/form-data"),
        (b"any", "multipart/form-data; boundary="),
        (b"any", "multipart/form-data; boundary=b"),
        (b"--b\r\nX: form-data\r\n\r\n7\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (b"", "multipart/form-data; boundary=b"),
        (b"--b--\r\n", "multipart/form-data; boundary=b"),
        (form(PICTURE)[0][:-20], form(PICTURE)[1]),
    ],
)  # fmt: skip
async def test_a_malformed_form_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(BadInputError) as refused:
        await ask(PicturesInput, body, content_type)
    assert_one_sentence(refused.value)


@pytest.mark.parametrize(
    "charset", ["undefined", "punycode", "idna", "utf-16", "base64", "\0", "?"]
)
async def test_no_charset_makes_the_service_fail(charset: str) -> None:
    body, content_type = form(PICTURE, model="xn--\xff-0")
    await is_accepted(PicturesInput, body, f"{content_type}; charset={charset}")


@pytest.mark.parametrize("charset", sorted(CHARSETS))
async def test_a_form_is_read_in_its_charset(charset: str) -> None:
    codec = codecs.lookup(charset).name
    assert codec in ("utf-8", "ascii", "iso8859-1")
    text = "mnist" if codec == "ascii" else "mn\u00efst"
    body, content_type = form(PICTURE, model=text)
    body = body.replace(text.encode(), text.encode(codec))
    for name in (charset, charset.upper(), f'"{charset}"'):
        assert (await ask(PicturesInput, body, f"{content_type}; charset={name}"))["model"] == text


def cached_codecs() -> int:
    """Return the number of codec names that Python has cached, known and unknown."""
    return len(vars(encodings)["_cache"])


@pytest.mark.slow
async def test_any_other_charset_is_refused_and_not_cached() -> None:
    body, content_type = form(PICTURE, model="m")
    before = cached_codecs()
    for number in range(1_000):
        for charset in (
            f"xyz{number}",
            f"utf-8{'!' * (number + 1)}",
            f'"utf-8 {number}"',
            "koi8_r",
        ):
            with pytest.raises(
                UnsupportedMediaError, match="UTF-8, US-ASCII or ISO-885"
            ) as refused:
                await ask(PicturesInput, body, f"{content_type}; charset={charset}")
            assert_one_sentence(refused.value)
    assert refused.value.headers == (("Accept", "multipart/form-data"),)
    assert cached_codecs() == before


async def test_charsets_in_other_places_are_not_cached() -> None:
    body, content_type = form(PICTURE, model="m")
    await ask(PicturesInput, body, content_type)
    before = cached_codecs()
    for number in range(300):
        part = body.replace(b"image/png", b"image/png; charset=abc%d" % number)
        assert part != body
        await ask(PicturesInput, part, content_type)
        await ask(CurveInput, b'{"x": [1]}', f"{JSON}; charset=abc{number}")
        sent = Sent(body, {"content-type": content_type}, 1 << 20, cut=False)
        first = (b"content-type", f"{content_type}; charset=abc{number}".encode())
        sent.request.scope["headers"].insert(0, first)
        assert (await read(PicturesInput, sent))["model"] == "m"
    assert cached_codecs() == before


@pytest.mark.parametrize("content_type", [None, JSON, "image/png", "multipart/mixed; boundary=b"])
async def test_pictures_are_only_accepted_as_a_form(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaError, match="in the field 'images' of multipart/form-data"):
        await ask(PicturesInput, b'{"images": ["http://127.0.0.1:9/seven.png"]}', content_type)


# Any request.

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-1, 256)
    | st.floats()
    | st.text(max_size=5)
)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["images", "x", "points", "model"]) | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=20,
)


@st.composite
def nearly_right(draw: st.DrawFn) -> dict[str, Any]:
    """Return a valid request with one change at some depth."""
    rows = draw(st.integers(1, 3))
    field, shape = draw(
        st.sampled_from(
            [
                ("images", (rows, 28, 28)),
                ("images", (rows, 784)),
                ("x", (rows,)),
                ("points", (rows, 2)),
            ]
        )
    )
    value = np.full(shape, draw(st.integers(0, 255))).tolist()
    nested = value
    for _ in range(draw(st.integers(0, len(shape) - 1))):
        nested = nested[draw(st.integers(0, len(nested) - 1))]
    match draw(st.sampled_from(["nothing", "replace", "append", "drop"])):
        case "replace":
            nested[draw(st.integers(0, len(nested) - 1))] = draw(scalars | documents)
        case "append":
            nested.append(draw(scalars | documents))
        case "drop":
            nested.pop()
    model = draw(st.none() | st.sampled_from(["mnist-cnn", ""]) | scalars)
    return {field: value} | ({} if model is None else {"model": model})


async def is_accepted(kind: type[Input], body: bytes, content_type: str) -> bool:
    """Return whether the request was accepted; check the error if it was refused."""
    try:
        fields = await ask(kind, body, content_type)
    except ServiceError as error:
        assert_refused(error)
        return False
    assert list(fields) == list(kind.model_fields)
    assert isinstance(fields["model"], str)
    value = fields[next(iter(fields))]
    if kind is PicturesInput:
        assert all(isinstance(file, bytes) for file in value)
        assert value
        return True
    tail, dtype = {
        DigitsInput: ((28, 28), np.uint8),
        CurveInput: ((1,), np.float32),
        PointsInput: ((2,), np.float32),
    }[kind]
    assert isinstance(value, np.ndarray)
    assert value.dtype == dtype
    assert len(value) > 0
    assert value.shape[1:] == tail
    assert np.isfinite(value).all()
    sent = np.array(json.loads(body)[next(iter(fields))], np.float32)
    np.testing.assert_array_equal(value, sent.reshape(value.shape))
    return True


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DigitsInput, CurveInput, PointsInput, PicturesInput])
def test_any_document_is_accepted_or_refused_with_a_4xx(kind: type[Input]) -> None:
    accepted = []

    @property_test
    @given(nearly_right() | documents)
    def check(content: object) -> None:
        # The plugin of anyio runs no function that hypothesis calls inside of a test.
        accepted.append(asyncio.run(is_accepted(kind, json.dumps(content).encode(), JSON)))

    check()
    assert any(accepted) or kind is PicturesInput
    assert not all(accepted)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DigitsInput, PicturesInput])
@property_test
@given(
    st.binary(max_size=300),
    st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=30),
)
async def test_any_bytes_of_any_type_are_accepted_or_refused_with_a_4xx(
    kind: type[Input], body: bytes, content_type: str
) -> None:
    for given_type in (JSON, "multipart/form-data; boundary=b", content_type):
        await is_accepted(kind, body, given_type)


@pytest.mark.slow
@property_test
@given(st.data())
async def test_any_damaged_form_is_accepted_or_refused_with_a_4xx(
    data: st.DataObject,
) -> None:
    body, content_type = form(PICTURE, PICTURE, model="mnist-mlp")
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(damaged)))
        stop = data.draw(st.integers(start, min(start + 20, len(damaged))))
        damaged[start:stop] = data.draw(st.binary(max_size=4) | st.sampled_from([b"\r\n", b"--"]))
    await is_accepted(PicturesInput, bytes(damaged), content_type)
