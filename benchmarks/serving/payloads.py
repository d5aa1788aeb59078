"""The payloads: the same images for every server, in the server's format.

A payload format encodes uint8 images [N, 28, 28] as a request body and decodes a response to
probabilities, float [N, 10], so that the outputs of each server can be compared with the network.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.package.repository import ModelRepository
from models.runtimes.runtime import OnnxRuntime, Runtime
from models.runtimes.torch_runtimes import TorchScriptRuntime
from service.settings import ROOT

PACKAGE = ModelRepository(ROOT / "models").get("mnist-mlp", "1")
IMAGES = 16
TOLERANCE = 1e-4
"""The largest absolute difference between a server's and the network's probability."""

Images = NDArray[np.uint8]
Probabilities = NDArray[np.floating[Any]]


def images(count: int = IMAGES) -> Images:
    """Return digits, uint8 [count, 28, 28]: shifted copies of the images in the package's card."""
    recorded: Images = PACKAGE.card.example.inputs["image"].array()
    shifts = [(y, x) for y in (0, 1, -1, 2) for x in (0, 1, -1, 2)]
    return np.stack(
        [
            np.roll(recorded[index % len(recorded)], shifts[index % len(shifts)], axis=(0, 1))
            for index in range(count)
        ]
    )


def in_process(runtime: str) -> Runtime:
    """Return the network in this process, on the CPU, with the thread settings of the service."""
    if runtime == "onnx":
        return OnnxRuntime(PACKAGE.load("model.onnx"))
    return TorchScriptRuntime(PACKAGE.load("model.pt"), outputs=["probabilities"])


@dataclass(frozen=True)
class PayloadFormat:
    """A request format: encodes images as a body, and decodes the probabilities of a response."""

    body: Callable[[Images], bytes]
    read: Callable[[bytes, Mapping[str, str]], Probabilities]
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _probabilities(content: Any) -> Probabilities:
    return np.array(content, np.float64).reshape(-1, 10)


ONE_IMAGE = PayloadFormat(
    lambda pixels: _json({"image": pixels.ravel().tolist()}),
    lambda content, _: _probabilities(orjson.loads(content)["probabilities"]),
)
"""`{"image": [784 numbers]}` → `{"probabilities": [10 numbers]}`."""

NESTED = PayloadFormat(
    lambda pixels: _json({"images": pixels.tolist()}),
    lambda content, _: _probabilities(orjson.loads(content)),
)
"""`{"images": [N x 28 x 28]}` → `[N x 10]`: BentoML's format of arrays."""

TYPED = PayloadFormat(
    lambda pixels: _json(
        {"model": PACKAGE.card.name, "images": pixels.reshape(len(pixels), -1).tolist()}
    ),
    lambda content, _: _probabilities(
        [row["probabilities"] for row in orjson.loads(content)["predictions"]]
    ),
)
"""The body of `/classify_digits`."""


def _tensor(pixels: Images) -> dict[str, Any]:
    return {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8"}


V2_JSON = PayloadFormat(
    lambda pixels: _json({"inputs": [{**_tensor(pixels), "data": pixels.ravel().tolist()}]}),
    lambda content, _: _probabilities(orjson.loads(content)["outputs"][0]["data"]),
)
"""The Open Inference Protocol, tensors as JSON numbers."""


def _header(pixels: Images) -> bytes:
    tensor = {**_tensor(pixels), "parameters": {"binary_data_size": pixels.nbytes}}
    return _json({"inputs": [tensor], "parameters": {"binary_data_output": True}})


def _after_header(content: bytes, headers: Mapping[str, str]) -> Probabilities:
    start = int(headers["inference-header-content-length"])
    return np.frombuffer(content[start:], "<f4").reshape(-1, 10)


def v2_binary(count: int) -> PayloadFormat:
    """Return the Open Inference Protocol with binary tensors, for requests of `count` images.

    An HTTP header has the size of the JSON header, so a format is valid for one count only.
    """
    length = len(_header(np.zeros((count, 28, 28), np.uint8)))
    return PayloadFormat(
        lambda pixels: _header(pixels) + pixels.tobytes(),
        _after_header,
        {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(length),
        },
    )
