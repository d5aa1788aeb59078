"""Invalid requests, made from valid ones.

A case depends only on the seed and its number, so a failing case can be repeated. The requests are
changed as JSON, as binary tensors, compressed, as forms with pictures, as requests of the typed
endpoints, and as bytes on the wire. One in ten is unchanged, and must get the same response as at
the start.
"""

import gzip
import json
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw

LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Case:
    """One request in parts; `framed` means that its headers state where it ends."""

    kind: str
    parts: tuple[bytes, ...]
    framed: bool = True
    right: bytes | None = None
    late: bool = False  # it may have a deadline, whose response is 504


# The valid requests.

TENSORS: tuple[tuple[str, list[dict[str, Any]]], ...] = (
    ("curve-tanh", [{"name": "x", "shape": [3, 1], "datatype": "FP32", "data": [0, 5, 10.5]}]),
    ("moons-tanh", [{"name": "point", "shape": [1, 2], "datatype": "FP32", "data": [[0.5, -1]]}]),
    ("mnist-mlp", [{"name": "image", "shape": [1, 28, 28], "datatype": "UINT8",
                    "data": [number % 256 for number in range(784)]}]),
)  # fmt: skip
EXTRAS: tuple[dict[str, Any], ...] = (
    {},
    {"id": "seven"},
    {"outputs": [{"name": "y"}]},
    {"outputs": [{"name": "probabilities", "parameters": {"classification": 2}}]},
    {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
    {"parameters": {"timeout": 30_000_000, "priority": 0, "binary_data_output": True}},
)
TYPED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/predict_curve", {"x": [0, 5, 10.5], "model": "curve-tanh"}),
    ("/classify_points", {"points": [[0, 1], [1, -0.5]], "model": "moons-tanh"}),
    ("/classify_digits", {"images": [[0] * 784], "model": "mnist-mlp"}),
)
PATHS = (
    *("/v2", "/v2/health/live", "/v2/models", "/v2/models/stats", "/v2/repository/index"),
    *("/v2/models/curve-tanh", "/v2/models/curve-tanh/ready", "/v2/models/curve-tanh/config"),
    *("/v2/models/curve-tanh/versions/1/infer", "/v2/models/curve-tanh/versions/9", "/v2/models//"),
    *("/", "/models", "/models/mnist-cnn", "/models/nobody", "/docs.json", "/metrics", "/livez"),
    *("/v2/../metrics", "/v2/models/%00/infer", "/v2/models/%ff%2f../ready", "//v2//models", "/%"),
    *("/v2/models/" + "a" * 4_000, "/?" + "q=" * 2_000, "*", "http://other/v2", "/classify_image"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 256, 2**31, 2**63 - 1, 2**63, -(2**63), 2**70),
    *(0.5, -0.0, 1e308, 1e-320, 3.5e38, "", "x", "é", "\0", "\ud7ff", "1", "NaN", "a" * 3_000),
    *(
        [],
        {},
        [[]],
        [[[]]],
        [0] * 300,
        [1, [2]],
        {"a": {}},
        ["a"],
        [None],
        [-1],
        [0, 1],
        [10**9, 1],
    ),
    *("BOOL", "UINT8", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES", "fp32", "image", "y"),
    *("https://127.0.0.1/x.png", "file:///etc/passwd", "curve-tanh", "../curve-tanh", "mnist-cnn"),
)
NAMES = ("x", "y", "name", "shape", "datatype", "data", "parameters", "binary_data_size", "inputs")
NAMES += ("outputs", "classification", "binary_data", "model", "id", "timeout", "priority", "")
TOKENS: tuple[bytes, ...] = (
    *(b"\0", b"\xff", b'"', b"[", b"]", b"{", b"}", b",", b":", b"\\", b"\\u0000", b"\\ud800"),
    *(b"NaN", b"Infinity", b"1e999", b"-", b"0" * 400, b"9" * 400, b"true", b"null", b"\r\n", b" "),
    *(b"[" * 1_100, b'{"a":' * 1_100, b"\r\n\r\n", b"--", b"%", b";", b"\x1f\x8b", b"\xef\xbb\xbf"),
)
ENCODINGS: tuple[str, ...] = (
    *("gzip", "x-gzip", "deflate", "br", "zstd", "identity", "gzip, gzip", "", "GZIP", "x" * 2_000),
)
LENGTHS = (10**9, 10**30, -1, "", "x", "0x10", " 7", "1e3", "7, 7", "+7", "1_0", "\xb2")
HEADERS: tuple[dict[str, str], ...] = (
    *({}, {"Origin": "https://a.example"}, {"Host": "a.example"}, {"Range": "bytes=0-"}),
    *({"X-Request-Id": "\xe9" * 9},),
    *({"Authorization": "Bearer x"}, {"traceparent": "00-x"}, {"Cookie": "a" * 2_000}),
    *({"Accept": "application/vnd.bentoml+pickle"}, {"Upgrade": "websocket"}, {"Expect": "x"}),
)
KINDS = (
    "valid",
    "json",
    "json",
    "binary",
    "binary",
    "compressed",
    "typed",
    "typed",
    "path",
    "http",
)
UPLOADS = 0.05  # the share of forms with pictures, which take the longest


@cache
def pictures() -> tuple[bytes, ...]:
    """Return one small picture in each supported format, and one in another."""
    positions = []
    for kind, mode in (("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("GIF", "P"),
                       ("WEBP", "RGB"), ("BMP", "RGB"), ("BMP", "1"), ("TIFF", "L")):  # fmt: skip
        picture = Image.new("L", (48, 40), 255)
        ImageDraw.Draw(picture).line([(10, 8), (36, 8), (22, 34)], fill=0, width=5)
        stream = BytesIO()
        picture.convert(mode).save(stream, kind)
        positions.append(stream.getvalue())
    return tuple(positions)


def changed(chance: random.Random, value: Any) -> Any:
    """Return the value with one change."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(list(value))
        choice = chance.random()
        if choice < 0.1:
            return {key: value_ for key, value_ in value.items() if key != name}
        if choice < 0.2:
            return {chance.choice(NAMES) if key == name else key: k for key, k in value.items()}
        if choice < 0.3:
            return {**value, chance.choice(NAMES): chance.choice(VALUES)}
        return {**value, name: changed(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.7:
        index = chance.randrange(len(value))
        choice = chance.random()
        if choice < 0.15:
            return value[:index] + value[index + 1 :]
        if choice < 0.3:
            return value[:index] + [value[index]] * chance.choice((2, 3, 50)) + value[index:]
        return [*value[:index], changed(chance, value[index]), *value[index + 1 :]]
    return chance.choice(VALUES)


def broken(chance: random.Random, content: bytes) -> bytes:
    """Return the bytes with some changes."""
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 12))):
        start, end = chance.randrange(len(damaged) + 1), chance.randrange(len(damaged) + 1)
        match chance.randrange(6):
            case 0 if damaged:
                damaged[start - 1] = chance.randrange(256)
            case 1:
                damaged[start:start] = chance.choice(TOKENS)
            case 2:
                del damaged[start : start + chance.choice((1, 1, 4, 64))]
            case 3:
                damaged[start:start] = damaged[end : end + chance.choice((1, 8, 200))]
            case 4 if damaged:
                damaged[start - 1] ^= 1 << chance.randrange(8)
            case 5 if chance.random() < 0.3:
                del damaged[start:]
    return bytes(damaged)


def request(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> bytes:
    """Return a request as bytes on the wire."""
    headers = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def form(mark: bytes, *files: bytes) -> tuple[bytes, str]:
    """Return a form with these files, and its media type; `mark` is the boundary."""
    parts = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n%s\r\n" % (mark, file)
        for file in files
    )
    text = b'--%s\r\nContent-Disposition: form-data; name="model"\r\n\r\nmnist-mlp\r\n' % mark
    return parts + text + b"--%s--\r\n" % mark, f"multipart/form-data; boundary={mark.decode()}"


def tensors(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """Return the path and the body of an inference."""
    model, inputs = chance.choice(TENSORS)
    return f"/v2/models/{model}/infer", {"inputs": inputs, **chance.choice(EXTRAS)}


def with_tail(body: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return the same with its first input as bytes after the JSON."""
    first = dict(body["inputs"][0])
    del first["data"]
    width = 1 if first["datatype"] == "UINT8" else 4
    size = width
    for length in first["shape"]:
        size *= length
    return {**body, "inputs": [{**first, "parameters": {"binary_data_size": size}}]}, b"\0" * size


# The cases. Each function gets its own random generator, and returns what is sent.


def valid(number: int) -> bytes:
    """Return one of the requests whose response is 200."""
    variant = number % 8
    if variant < 3:
        model, inputs = TENSORS[variant]
        return request(f"/v2/models/{model}/infer", json.dumps({"inputs": inputs}).encode())
    if variant < 6:
        path, body = TYPED[variant - 3]
        return request(path, json.dumps(body).encode(), Content_Type="application/json")
    if variant == 6:
        content, kind = form(b"mark", pictures()[0])
        return request("/classify_image", content, Content_Type=kind)
    model, inputs = TENSORS[0]
    head, tail = with_tail({"inputs": inputs})
    start = json.dumps(head).encode()
    length = {LENGTH: str(len(start))}
    return request(f"/v2/models/{model}/infer", start + tail, **length)


def a_json(chance: random.Random) -> bytes:
    """Return an inference in JSON."""
    path, body = tensors(chance)
    if chance.random() < 0.5:
        return request(path, broken(chance, json.dumps(body).encode()))
    for _ in range(chance.choice((1, 1, 2, 5))):
        body = changed(chance, body)
    return request(path, json.dumps(body).encode())


def a_binary(chance: random.Random) -> bytes:
    """Return an inference with bytes after its JSON, possibly with a wrong header length."""
    path, body = tensors(chance)
    head, tail = with_tail(body)
    if chance.random() < 0.4:
        head = changed(chance, head)
    start = json.dumps(head).encode()
    if chance.random() < 0.2:
        start = broken(chance, start)
    if chance.random() < 0.4:
        tail = broken(chance, tail)
    length: Any = len(start)
    if chance.random() < 0.4:
        near = (0, 1, length - 1, length + 1, length + len(tail), len(start + tail) + 1)
        length = chance.choice((*near, *LENGTHS))
    return request(path, start + tail, **{LENGTH: str(length)})


def a_compressed(chance: random.Random) -> bytes:
    """Return an inference that is compressed, or claims to be."""
    path, body = tensors(chance)
    content = json.dumps(body).encode()
    if chance.random() < 0.05:
        content = b" " * 70 * 2**20 if chance.random() < 0.01 else b" " * 2**20
    packed = gzip.compress(content, 1) if chance.random() < 0.5 else zlib.compress(content, 1)
    if chance.random() < 0.7:
        packed = broken(chance, packed)
    return request(path, packed, Content_Encoding=chance.choice(ENCODINGS))


def a_typed(chance: random.Random) -> bytes:
    """Return a request of a typed endpoint."""
    path, body = chance.choice(TYPED)
    if chance.random() < 0.5:
        body = changed(chance, body)
    content = json.dumps(body).encode()
    if chance.random() < 0.5:
        content = broken(chance, content)
    kind = "application/json"
    if chance.random() < 0.1:
        kind = chance.choice(("", "text/plain", "application/vnd.bentoml+pickle", "*/*", "a" * 999))
    return request(path, content, Content_Type=kind)


def an_upload(chance: random.Random) -> bytes:
    """Return a form with pictures."""
    file = chance.choice(pictures())
    if chance.random() < 0.8:
        file = broken(chance, file)
    content, kind = form(b"mark%d" % chance.randrange(1_000), *[file] * chance.choice((1, 1, 2)))
    if chance.random() < 0.3:
        content = broken(chance, content)
    if chance.random() < 0.05:
        kind = chance.choice(
            ("multipart/form-data", "multipart/form-data; boundary=", "a/b", kind[:-1])
        )
    return request("/classify_image", content, Content_Type=kind)


def a_path(chance: random.Random) -> bytes:
    """Return a path and a method of any kind."""
    method = chance.choice(("GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"))
    return request(chance.choice(PATHS), b"", method, **chance.choice(HEADERS))


def an_http(chance: random.Random) -> bytes:
    """Return a request with bytes changed anywhere, its header included."""
    whole = chance.choice((a_json, a_binary, a_path, a_typed))(chance)
    if chance.random() < 0.3:
        head, _, body = whole.partition(b"\r\n\r\n")
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        whole = head.replace(b"Content-Length:", b"Transfer-Encoding: chunked\r\nX:") + b"\r\n\r\n"
        whole += broken(chance, chunks)
    if chance.random() < 0.3:
        whole = whole[: chance.randrange(len(whole) + 1)]
    return broken(chance, whole[:400]) + whole[400:]


MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    "json": a_json,
    "binary": a_binary,
    "compressed": a_compressed,
    "typed": a_typed,
    "upload": an_upload,
    "path": a_path,
    "http": an_http,
}


def make(seed: int, number: int, right: Sequence[bytes] = (), kinds: Sequence[str] = KINDS) -> Case:
    """Return the case of this number and these kinds; `right` are responses to valid requests."""
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - reproducible, not secret
    uploads = UPLOADS if kinds == KINDS else 0.0
    kind = "upload" if chance.random() < uploads else chance.choice(kinds)
    sent = valid(number) if kind == "valid" else MAKERS[kind](chance)
    parts: tuple[bytes, ...] = (sent,)
    if chance.random() < 0.1:
        cut = chance.randrange(len(sent) + 1)
        parts = (sent[:cut], sent[cut:])
    expected = right[number % 8] if right and kind == "valid" else None
    late = kind == "compressed" or b"timeout" in sent
    return Case(kind, parts, kind != "http", expected, late)
