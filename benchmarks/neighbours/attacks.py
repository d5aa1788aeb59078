"""The attacks: what each sends, to which model, and which neighbours are measured beside it."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.neighbours.clients import Neighbour
from benchmarks.neighbours.networks import WIDTH
from benchmarks.neighbours.pictures import digit, rle_bmp
from benchmarks.serving.payloads import V2_JSON, images, v2_binary

MAX_ROWS = 16_384
"""The rows that the queue of a model holds by default."""
LARGE_SIDE = 6_300
"""Pixels; a square picture of this side is just below the limit of 40 million pixels."""
_BOUNDARY = "a-boundary"
_JSON = {"Content-Type": "application/json"}
_GZIP = {**_JSON, "Content-Encoding": "gzip"}


def post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def v2(model: str) -> str:
    """Return the path of a model's predictions in the Open Inference Protocol."""
    return f"/v2/models/{model}/infer"


def binary(model: str, name: str, datatype: str, values: NDArray[Any]) -> bytes:
    """Return a request with one binary tensor, for a binary response."""
    tensor = {
        "name": name,
        "shape": list(values.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": values.nbytes},
    }
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    lengths = {"Inference-Header-Content-Length": str(len(header))}
    return post(
        v2(model),
        header + values.tobytes(),
        {"Content-Type": "application/octet-stream", **lengths},
    )


def upload(picture: bytes) -> bytes:
    """Return a request with one picture in a form."""
    disposition = 'Content-Disposition: form-data; name="images"; filename="digit"'
    before = f"--{_BOUNDARY}\r\n{disposition}\r\nContent-Type: image/*\r\n\r\n"
    body = before.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    kind = f"multipart/form-data; boundary={_BOUNDARY}"
    return post("/classify_image", body, {"Content-Type": kind})


def json_tensor(model: str, name: str, rows: int, data: str) -> bytes:
    """Return the JSON body of a request with one FP32 tensor [rows, 1]; `data` is JSON."""
    tensor = f'{{"name":"{name}","shape":[{rows},1],"datatype":"FP32","data":{data}}}'
    return f'{{"inputs":[{tensor}]}}'.encode()


OTHER_MODEL = Neighbour(
    "another model",
    post(v2("curve-linear"), json_tensor("curve-linear", "x", 1, "[1.5]"), _JSON),
    rate=100,
)
LIVENESS = Neighbour("/livez", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", rate=20)
PICTURES = Neighbour("small pictures", upload(digit(200, "PNG")), rate=20)
SAME_IMAGES = Neighbour(
    "same model", post(v2("mnist-cnn"), V2_JSON.body(images(1)), V2_JSON.headers), rate=50
)
SAME_ROWS = Neighbour(
    "same model",
    binary("subnormals", "x", "FP32", np.ones((1, WIDTH), np.float32)),
    rate=50,
)
ALWAYS = (OTHER_MODEL, LIVENESS)


@dataclass(frozen=True)
class Attack:
    """An attack.

    Attributes:
        name: as `--only` takes it.
        sends: what it sends, in a phrase.
        model: the model that it asks.
        request: makes the bytes of its request.
        neighbours: the clients that are measured beside it.
        connections: how many connections send at the same time.
        reads: whether it reads the responses.
        network: the network of `networks.py` that it needs, if any.
    """

    name: str
    sends: str
    model: str
    request: Callable[[], bytes]
    neighbours: Sequence[Neighbour] = ALWAYS
    connections: int = 2
    reads: bool = True
    network: str | None = None


def _empty_lists() -> bytes:
    lists = (60 * 2**20 - 10) // 3
    body = b'{"x":[' + b"[]," * (lists - 1) + b"[]]}"
    return post("/predict_curve", gzip.compress(body), _GZIP)


def _empty_lists_to_v2() -> bytes:
    body = json_tensor("curve-linear", "x", 1, "[" + "[]," * 21_999_999 + "[]]")
    return post(v2("curve-mlp"), gzip.compress(body), _GZIP)


def _json_images() -> bytes:
    pixels = np.random.default_rng(0).integers(100, 256, (MAX_ROWS, 784))
    body = json.dumps({"model": "mnist-mlp", "images": pixels.tolist()}, separators=(",", ":"))
    return post("/classify_digits", body.encode(), _JSON)


def _json_floats() -> bytes:
    values, size = np.random.default_rng(0).uniform(0, 20, 1_200_000), 20 * 2**20
    data = ",".join(map(repr, values.tolist()))[:size].rpartition(",")[0]
    rows = data.count(",") + 1
    return post(v2("curve-mlp"), json_tensor("curve-mlp", "x", rows, f"[{data}]"), _JSON)


def _many_rows() -> bytes:
    payload = v2_binary(MAX_ROWS)
    return post(v2("mnist-cnn"), payload.body(images(MAX_ROWS)), payload.headers)


def _rows(value: float) -> Callable[[], bytes]:
    values = np.full((1_024, WIDTH), value, np.float32)
    return lambda: binary("subnormals", "x", "FP32", values)


def _long_row() -> bytes:
    return binary("free", "x", "FP32", np.ones((1, 4_000_000), np.float32))


def _wide_rows() -> bytes:
    return binary("wide", "x", "FP32", np.ones((1_000, 1), np.float32))


def _picture(
    name: str, sends: str, make: Callable[[], bytes], neighbours: Sequence[Neighbour] = ()
) -> Attack:
    return Attack(
        name, sends, "mnist-cnn", lambda: upload(make()), (*ALWAYS, PICTURES, *neighbours)
    )


def _large(file_format: str, *, colour: bool) -> Attack:
    sends = f"an honest {file_format} of {LARGE_SIDE:,} x {LARGE_SIDE:,} pixels, "
    return _picture(
        f"large {file_format}",
        sends + ("in colour" if colour else "grey"),
        lambda: digit(LARGE_SIDE, file_format, colour=colour),
    )


ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack(
            "empty lists, gzip",
            "gzip of 61 kB that expands to 60 MiB of `[]`, to /predict_curve",
            "curve-tanh",
            _empty_lists,
        ),
        Attack(
            "empty lists to V2",
            "gzip of 65 kB that expands to 22 million `[]` as V2 JSON data",
            "curve-mlp",
            _empty_lists_to_v2,
        ),
        Attack(
            "JSON images",
            "16,384 images as 51 MB of JSON, to /classify_digits",
            "mnist-mlp",
            _json_images,
        ),
        Attack("JSON floats", "20 MiB of floats as V2 JSON data", "curve-mlp", _json_floats),
        _picture(
            "RLE BMP, 3.5 kB",
            "a BMP of 65,535 x 610 pixels, one pixel in each row",
            lambda: rle_bmp(65_535, 610),
        ),
        _picture(
            "RLE BMP, 33 kB",
            "a BMP of 5,000 x 8,000 pixels, one pixel in each row",
            lambda: rle_bmp(5_000, 8_000),
        ),
        _large("PNG", colour=False),
        _large("JPEG", colour=True),
        _large("WEBP", colour=True),
        _large("GIF", colour=False),
        Attack(
            "many rows",
            "16,384 images in one binary tensor",
            "mnist-cnn",
            _many_rows,
            (*ALWAYS, SAME_IMAGES),
        ),
        Attack(
            "subnormals",
            "1,024 rows of 1e-40 in one binary tensor",
            "a network 512-512-512-10",
            _rows(1e-40),
            (*ALWAYS, SAME_ROWS),
            network="subnormals",
        ),
        Attack(
            "normal rows",
            "as `subnormals`, with rows of 1: the cost without subnormal numbers",
            "a network 512-512-512-10",
            _rows(1.0),
            (*ALWAYS, SAME_ROWS),
            network="subnormals",
        ),
        Attack(
            "free dimension",
            "one row of 4 million floats in one binary tensor",
            "a network that takes rows of any length",
            _long_row,
            network="free",
        ),
        Attack(
            "ConstantOfShape",
            "the number 100 million",
            "a network that makes as many ones",
            lambda: binary("constant-of-shape", "n", "INT64", np.full((1,), 100_000_000, np.int64)),
            network="constant-of-shape",
        ),
        Attack(
            "Range",
            "the number 100 million",
            "a network that counts up to the number",
            lambda: binary("range", "n", "INT64", np.full((1, 1), 100_000_000, np.int64)),
            network="range",
        ),
        Attack(
            "unread responses",
            "requests for responses of 16 MB on 40 connections, which are never read",
            "a network with 4,096 outputs",
            _wide_rows,
            connections=40,
            reads=False,
            network="wide",
        ),
    )
}
