"""Messages of the Open Inference Protocol: requests and parsers of responses."""

import json
import re
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

CURVE = "curve-tanh"
POINTS = "moons-tanh"
IMAGES = "mnist-mlp"
LENGTH = "Inference-Header-Content-Length"
OF_A_MODEL = ("", "/ready", "/config", "/stats", "/infer")
"""The endpoints below the path of a model."""

X = np.array([[1.5], [-2], [20]], np.float32)
ONE_IMAGE = np.arange(784, dtype=np.uint8).reshape(1, 28, 28)

Json = dict[str, Any]


def tensor(name: str, rows: NDArray[Any], /, **changed: Any) -> Json:
    """Return the rows as an input in JSON, flat, with some fields changed, or removed if None."""
    datatype = {"uint8": "UINT8", "float32": "FP32"}[rows.dtype.name]
    entry = {"name": name, "shape": rows.shape, "datatype": datatype, "data": rows.ravel().tolist()}
    return {key: value for key, value in {**entry, **changed}.items() if value is not None}


def binary(name: str, rows: NDArray[Any], /, **changed: Any) -> Json:
    """Return the JSON of the rows as a binary input; their bytes follow the JSON."""
    size = {"binary_data_size": rows.nbytes}
    return tensor(name, rows, **{"data": None, "parameters": size, **changed})


def infer(
    client: httpx.Client, body: Json, tail: bytes = b"", model: str = CURVE, **headers: str
) -> httpx.Response:
    """Send an inference request; with a tail the body is binary."""
    content = json.dumps(body).encode()
    if tail:
        headers[LENGTH] = str(len(content))
    return client.post(f"/v2/models/{model}/infer", content=content + tail, headers=headers)


def curve(client: httpx.Client, **body: Any) -> httpx.Response:
    """Request the curve at `X`, with additional fields."""
    return infer(client, {"inputs": [tensor("x", X)], **body})


def read(response: httpx.Response) -> dict[str, NDArray[Any]]:
    """Return the outputs of a response by name, from JSON or from bytes."""
    assert response.status_code == 200, response.text
    size = int(response.headers.get(LENGTH, len(response.content)))
    header, tail = json.loads(response.content[:size]), response.content[size:]
    kind = "application/json" if LENGTH not in response.headers else "application/octet-stream"
    assert response.headers["content-type"] == kind
    outputs: dict[str, NDArray[Any]] = {}
    for output in header["outputs"]:
        shape, data = output["shape"], output.get("data")
        length = output.get("parameters", {}).get("binary_data_size")
        assert (data is None) is not (length is None), output
        if length is not None:
            data, tail = tail[:length], tail[length:]
            if output["datatype"] == "BYTES":
                data = list(texts(data))
        if output["datatype"] == "BYTES":
            array = np.array(data, np.object_)
        else:
            assert output["datatype"] == "FP32"
            array = np.frombuffer(data, "<f4") if length is not None else np.array(data, np.float32)
        outputs[output["name"]] = array.reshape(shape)
    assert tail == b""
    return outputs


def texts(content: bytes) -> Iterator[str]:
    """Return the elements of a BYTES tensor."""
    while content:
        (size,) = struct.unpack_from("<I", content)
        yield content[4 : 4 + size].decode()
        content = content[4 + size :]


def assert_refused(response: httpx.Response, status: int = 400, words: str = "") -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert LENGTH not in response.headers
    assert list(response.json()) == ["error"]
    assert re.fullmatch(r"[A-Z].*\.", response.json()["error"]), response.text
    assert words in response.json()["error"]
