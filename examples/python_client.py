"""Ask the Open Inference Protocol from Python's standard library, in JSON and in binary."""

import json
import os
import struct
import urllib.request

URL = os.environ.get("FITSERVE_URL", "http://127.0.0.1:3000") + "/v2/models/curve-tanh/infer"


def ask_json(places: list[float]) -> list[float]:
    """Return the curve's values, sent and received as JSON."""
    tensor = {"name": "x", "shape": [len(places), 1], "datatype": "FP32", "data": places}
    body = json.dumps({"inputs": [tensor]}).encode()
    request = urllib.request.Request(URL, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        values: list[float] = json.load(response)["outputs"][0]["data"]
    return values


def ask_binary(places: list[float]) -> list[float]:
    """Return the same, sent and received as little-endian bytes behind a JSON header."""
    data = struct.pack(f"<{len(places)}f", *places)
    tensor = {
        "name": "x",
        "shape": [len(places), 1],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    content = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    header = json.dumps(content).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(header)),
    }
    request = urllib.request.Request(URL, header + data, headers)
    with urllib.request.urlopen(request) as response:
        length = int(response.headers["Inference-Header-Content-Length"])
        values = response.read()[length:]
    return list(struct.unpack(f"<{len(values) // 4}f", values))


if __name__ == "__main__":
    print("JSON:  ", ask_json([0, 5, 10.5]))
    print("binary:", ask_binary([0, 5, 10.5]))
