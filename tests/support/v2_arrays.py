"""Requests of the V2 protocol from arrays, and responses as arrays, in JSON and in binary."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
_DATATYPES = {"float32": "FP32", "int64": "INT64"}
_DTYPES = {datatype: np.dtype(name) for name, datatype in _DATATYPES.items()}


def infer(client: httpx.Client, model: str, inputs: Arrays, *, binary: bool = False) -> Arrays:
    """Return the outputs of a model for some inputs, in the shapes of the response."""
    response = post(client, model, inputs, binary=binary)
    assert response.status_code == 200, response.text
    length = response.headers.get("inference-header-content-length")
    content = response.content if length is None else response.content[: int(length)]
    rest = response.content[len(content) :]
    outputs = {}
    for tensor in json.loads(content)["outputs"]:
        dtype = _DTYPES[tensor["datatype"]]
        if length is None:
            array = np.array(tensor["data"], dtype)
        else:
            size = tensor["parameters"]["binary_data_size"]
            array, rest = np.frombuffer(rest[:size], dtype), rest[size:]
        outputs[tensor["name"]] = array.reshape(tensor["shape"])
    assert not rest
    return outputs


def post(
    client: httpx.Client, model: str, inputs: Arrays, *, binary: bool = False
) -> httpx.Response:
    """Send inputs to a model."""
    tensors, data = [], b""
    for name, array in inputs.items():
        tensor: dict[str, Any] = {
            "name": name, "datatype": _DATATYPES[array.dtype.name], "shape": array.shape,
        }  # fmt: skip
        if binary:
            tensor["parameters"] = {"binary_data_size": array.nbytes}
            data += array.tobytes()
        else:
            tensor["data"] = array.ravel().tolist()
        tensors.append(tensor)
    header = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": binary}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))} if binary else {}
    return client.post(f"/v2/models/{model}/infer", content=header + data, headers=headers)
