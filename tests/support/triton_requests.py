"""Valid and malformed requests of the protocol, for the service and a real Triton.

Each has a name, to which reasons for differences refer. Most are made from a few valid requests, of
which each field is removed or replaced by one of `VALUES`.
"""

import copy
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from echo_models import Echo
from infer_messages import raw_of
from messages import LENGTH, Json
from numpy.typing import NDArray

MODELS = (
    Echo("pair", ["FP32"], [(2,)]),
    Echo("scores", ["FP32"], [(3,)], labels=("a", "b", "c")),
    Echo("whole", ["INT64"], [(3,)], labels=("a", "b", "c")),
    Echo("flags", ["BOOL"], [(2,)]),
    Echo("half", ["FP16"], [(2,)]),
    Echo("small", ["UINT8", "INT8"], [(2,), (2,)]),
    Echo("fixed", ["FP32"], [(2, 3)], batch=2, labels=("a", "b", "c")),
    Echo("cache", ["FP32", "INT64"], [(2, -1, 4), (1,)]),
    Echo("texts", ["BYTES"], [(2,)]),
    Echo("text", ["BYTES"], [(1,)]),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 1.0, 1.5, 1e39, 2**31, 2**63, 2**64),
    *("", "x", "1", [], [1], {}, {"x": 1}),
)
FEWER: tuple[Any, ...] = (None, True, -1, 0, 2, 1.5, "x", [], {})
"""For requests that differ from the first in few fields."""


class TritonRequest(NamedTuple):
    """One request."""

    name: str
    method: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 - read-only


def tensor(name: str, array: NDArray[Any], datatype: str, **changed: Any) -> Json:
    """Return an input in JSON, flat."""
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": datatype,
        "data": array.ravel().tolist(),
        **changed,
    }


def binary(name: str, array: NDArray[Any], datatype: str) -> Json:
    """Return the JSON of an input whose bytes follow the JSON."""
    entry = tensor(name, array, datatype, parameters={"binary_data_size": array.nbytes})
    del entry["data"]
    return entry


def infer(name: str, model: str, body: Any, tail: bytes = b"", **headers: str) -> TritonRequest:
    """Return an inference request; with a tail it is binary."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    if tail:
        headers = {LENGTH: str(len(content)), **headers}
    return TritonRequest(name, "POST", f"/v2/models/{model}/infer", content + tail, headers)


PAIR = np.array([[1, 2.5]], np.float32)
SCORES = np.array([[0.25, 3, 1], [2, 2, -1]], np.float32)
WHOLE = np.array([[2**53, 2**53 + 1, -5]], np.int64)
FIXED = np.array([[1, 6, 3], [4, 2, 5]], np.float32)
CACHE = np.arange(32, dtype=np.float32).reshape(2, 2, 2, 4)
TOKENS = np.array([[7], [8]], np.int64)


def _top(count: Any, name: str = "out0", **parameters: Any) -> list[Json]:
    return [{"name": name, "parameters": {"classification": count, **parameters}}]


def _bases() -> Iterator[tuple[str, str, Json, bytes, tuple[Any, ...]]]:
    """Yield valid requests: name, model, JSON, bytes after it, and values for its fields."""
    full: Json = {
        "id": "7",
        "parameters": {"binary_data_output": False, "priority": 0, "sequence_id": 0},
        "inputs": [tensor("in0", PAIR, "FP32", parameters={})],
        "outputs": [{"name": "out0", "parameters": {"binary_data": False}}],
    }
    yield "pair", "pair", full, b"", VALUES
    body: Json = {"inputs": [binary("in0", PAIR, "FP32")], "outputs": [{"name": "out0"}]}
    yield "pair binary", "pair", body, PAIR.tobytes(), FEWER
    body = {"inputs": [tensor("in0", SCORES, "FP32")], "outputs": _top(2)}
    yield "scores", "scores", body, b"", FEWER
    body = {"inputs": [tensor("in0", WHOLE, "INT64")], "outputs": _top(3, binary_data=True)}
    yield "whole", "whole", body, b"", FEWER
    yield "whole plain", "whole", {"inputs": [tensor("in0", WHOLE, "INT64")]}, b"", VALUES
    flags = np.array([[True, False]])
    yield "flags", "flags", {"inputs": [tensor("in0", flags, "BOOL")]}, b"", VALUES
    halves = PAIR.astype(np.float16)
    body = {"inputs": [binary("in0", halves, "FP16")], "parameters": {"binary_data_output": True}}
    yield "half", "half", body, halves.tobytes(), FEWER
    eight, signed = np.array([[7, 255]], np.uint8), np.array([[-128, 127]], np.int8)
    body = {"inputs": [tensor("in0", eight, "UINT8"), binary("in1", signed, "INT8")]}
    yield "small", "small", body, signed.tobytes(), FEWER
    body = {"inputs": [tensor("in0", FIXED, "FP32")], "outputs": _top(4)}
    yield "fixed", "fixed", body, b"", FEWER
    empty = CACHE[:1, :, :0]
    body = {"inputs": [tensor("in0", empty, "FP32"), tensor("in1", TOKENS[:1], "INT64")]}
    yield "empty cache", "cache", body, b"", FEWER
    body = {
        "inputs": [tensor("in0", CACHE, "FP32"), tensor("in1", TOKENS, "INT64")],
        "outputs": [*_top(3), {"name": "out1"}],
    }
    yield "cache", "cache", body, b"", FEWER


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the positions in a JSON value; of a list of numbers only the first."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[: 1 if path and path[-1] == "data" else None]):
            yield (*path, index)
            yield from _places(inner, (*path, index))


def _changed(body: Json, path: tuple[Any, ...]) -> tuple[Json, Any, Any]:
    """Return a copy, and the container of the last step of the position in it."""
    content = copy.deepcopy(body)
    within: Any = content
    for step in path[:-1]:
        within = within[step]
    return content, within, path[-1]


def _ends_triton(name: str, path: tuple[Any, ...], value: Any) -> bool:
    """Return whether Triton would end for a reason that another request already covers."""
    if path[-2:-1] != ("shape",) or isinstance(value, bool) or not isinstance(value, int):
        return False
    return value >= 2**31 or (name == "cache" and value == 0)


def _of_fields() -> Iterator[TritonRequest]:
    for name, model, body, tail, values in _bases():
        yield infer(name, model, body, tail)
        for path in _places(body):
            label = f"{name}: {'.'.join(map(str, path))}"
            content, within, last = _changed(body, path)
            del within[last]
            yield infer(f"{label} left out", model, content, tail)
            for value in values:
                if _ends_triton(name, path, value):
                    continue
                content, within, last = _changed(body, path)
                within[last] = value
                yield infer(f"{label} = {value!r}", model, content, tail)


def _of_bodies() -> Iterator[TritonRequest]:
    good = json.dumps({"inputs": [tensor("in0", PAIR, "FP32")]}).encode()
    for content in (
        b"",
        b" ",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b"nonsense",
        good + b"x",
        good * 2,
    ):
        yield infer(f"body {content[:12]!r} of {len(content)}", "pair", content)
    for length in ("0", "1", "-1", "x", "", "99999", "1.5", str(len(good)), str(len(good) - 1)):
        yield infer(f"header length {length!r}", "pair", good, **{LENGTH: length})
    for model, size in (("pair", 8), ("fixed", 24), ("scores", 12), ("half", 4), ("cache", 64)):
        for large_body in (0, 1, size // 2, size - 1, size, size + 1, 2 * size):
            content = np.arange(large_body, dtype=np.uint8).tobytes()
            yield infer(f"raw {model}: {large_body} bytes", model, content, **{LENGTH: "0"})
    for name, content, coding in (
        ("gzip", gzip.compress(good), "gzip"),
        ("deflate", zlib.compress(good), "deflate"),
        ("identity", good, "identity"),
        ("two members", gzip.compress(good[:9]) + gzip.compress(good[9:]), "gzip"),
        ("no gzip", good, "gzip"),
        ("cut", gzip.compress(good)[:-9], "gzip"),
        ("junk behind", gzip.compress(good) + b"junk", "gzip"),
        ("br", good, "br"),
        ("x-gzip", gzip.compress(good), "x-gzip"),
        ("twice", gzip.compress(gzip.compress(good)), "gzip, gzip"),
    ):
        yield infer(f"content encoding {name}", "pair", content, **{"Content-Encoding": coding})
    large_body = json.dumps(
        {"inputs": [tensor("in0", np.ones((4096, 2), np.float32), "FP32")]}
    ).encode()
    for accepted in ("gzip", "deflate", "gzip, deflate", "deflate, gzip", "br", "gzip;q=0", "*",
                     "gzip;q=0.5, deflate;q=0.9", "identity", "x", ""):  # fmt: skip
        yield infer(f"accept {accepted!r}", "pair", large_body, **{"Accept-Encoding": accepted})


def _of_tensors() -> Iterator[TritonRequest]:
    """Yield requests that no change of a single field makes."""

    def pair(**changed: Any) -> Json:
        return {"inputs": [tensor("in0", PAIR, "FP32", **changed)]}

    for data in (
        [[1, 2]],
        [[1], [2]],
        [[[1, 2]]],
        [1, [2]],
        [1, 2, 3],
        [[1, 2], [3, 4]],
        [1, None],
    ):
        yield infer(f"data {data}", "pair", pair(data=data))
    for shape in (
        [2],
        [2, 1],
        [1, 1, 2],
        [1, 3],
        [0, 2],
        [-1, 2],
        [2, 2],
        [1, 2, 1],
        [2**62, 2**62],
    ):
        yield infer(f"shape {shape}", "pair", pair(shape=shape))
    for array in (WHOLE, np.array([[2**63 - 1, -(2**63), 0]]), np.array([[10, 2, 10]])):
        for top in (1, 2, 9):
            body = {"inputs": [tensor("in0", array, "INT64")], "outputs": _top(top)}
            yield infer(f"classes of {array.tolist()}: {top}", "whole", body)
    for top in (1, 6, 7):
        body = {"inputs": [tensor("in0", FIXED, "FP32")], "outputs": _top(top, binary_data=True)}
        yield infer(f"classes of a fixed batch: {top}", "fixed", body)
    flags = np.array([[True, False]])
    body = {"inputs": [tensor("in0", flags, "BOOL")], "outputs": _top(1)}
    yield infer("classes of BOOL", "flags", body)
    halves = PAIR.astype(np.float16)
    body = {"inputs": [binary("in0", halves, "FP16")], "outputs": _top(1)}
    yield infer("classes of FP16", "half", body, halves.tobytes())
    special = np.array([[np.nan, 1, np.inf]], np.float32)
    body = {"inputs": [binary("in0", special, "FP32")]}
    yield infer("NaN in JSON", "scores", body, special.tobytes())
    body["parameters"] = {"binary_data_output": True}
    yield infer("NaN in binary", "scores", body, special.tobytes())
    for floats in ([1.0, 2.0, -3.0], [1.0, 2, 3], [1.5, 2.0, 3.0], [1e30, 2.0, 3.0]):
        body = {"inputs": [tensor("in0", WHOLE, "INT64", data=floats)]}
        yield infer(f"whole numbers {floats}", "whole", body)
    for truths in ([1, 0], [1.0, 0.0], [2, 0], [0.5, 1]):
        body = {"inputs": [tensor("in0", flags, "BOOL", data=truths)]}
        yield infer(f"truth values {truths}", "flags", body)
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    yield infer("shared memory with data", "pair", pair(parameters=region))
    body = pair(parameters=region)
    del body["inputs"][0]["data"]
    yield infer("shared memory", "pair", body)
    yield infer("shared memory of an output", "pair",
                {**pair(), "outputs": [{"name": "out0", "parameters": region}]})  # fmt: skip
    yield infer("two rows beside one", "small", {
        "inputs": [
            tensor("in0", np.ones((2, 2), np.uint8), "UINT8"),
            tensor("in1", np.ones((1, 2), np.int8), "INT8"),
        ]
    })  # fmt: skip
    inputs_twice = pair()["inputs"] * 2
    yield infer("an input twice", "pair", {"inputs": inputs_twice})
    yield infer("an output twice", "pair", {**pair(), "outputs": [{"name": "out0"}] * 2})
    more = tensor("in9", PAIR, "FP32")
    yield infer("an input more", "pair", {"inputs": [*pair()["inputs"], more]})
    for value in ({"a": 1}, None, [1], 1.5, "x", True, 2):
        yield infer(
            f"a parameter of one's own = {value!r}",
            "pair",
            {**pair(), "parameters": {"own": value}},
        )
    yield infer("a parameter triton_x", "pair", {**pair(), "parameters": {"triton_x": 1}})
    for timeout in (10**9, -1, 1.5, "x", None):
        yield infer(f"timeout {timeout!r}", "pair", {**pair(), "parameters": {"timeout": timeout}})
    rows = np.zeros((5000, 2), np.float32)
    yield infer("more rows than a batch", "pair", {"inputs": [tensor("in0", rows, "FP32")]})
    yield infer("an unknown model", "nobody", pair())
    yield infer("an unknown version", "pair/versions/7", pair())
    yield infer("the version", "pair/versions/1", pair())
    yield infer("a field of one's own", "pair", {**pair(), "own": [1]})


def _of_texts() -> Iterator[TritonRequest]:
    """Yield requests of BYTES: texts in JSON, and well and badly written bytes."""
    for data in (
        ["", "a\0b"], ["é日😀", '"\\'], [["a", "b"]], [[["a", "b"]]], ["a"], ["a", "b", "c"],
        ["a", 1], ["a", None], ["a", True], ["a", 1.5], ["a", ["b"]], ["a", {}],
        "ab", [], None, [1, 2],
    ):  # fmt: skip
        entry = {"name": "in0", "shape": [1, 2], "datatype": "BYTES", "data": data}
        for flag in (False, True):
            body = {"inputs": [entry], "parameters": {"binary_data_output": flag}}
            yield infer(f"texts {data!r}, {flag}", "texts", body)
    good = raw_of(np.array(["", "né"], object))
    for label, tail in {
        "good": good,
        "cut": good[:-1],
        "cut in a length": good[:6],
        "one": good[:4],
        "more": good + b"\0",
        "three": good + bytes(4),
        "long": b"\xff\xff\xff\xff" + good,
        "no UTF-8": raw_of(np.array([b"\xff", b"a"], object)),
        "a surrogate": raw_of(np.array([b"\xed\xa0\x80", b"a"], object)),
    }.items():
        for more in (-1, 0, 1):
            entry = {"name": "in0", "shape": [1, 2], "datatype": "BYTES",
                     "parameters": {"binary_data_size": len(tail) + more}}  # fmt: skip
            yield infer(f"bytes of texts {label}, {more}", "texts", {"inputs": [entry]}, tail)
    for label, raw in {"a text": "né".encode(), "a length": raw_of(np.array(["a"], object)),
                       "nothing": b""}.items():  # fmt: skip
        yield infer(f"raw text: {label}", "text", raw, **{LENGTH: "0"})
        yield infer(f"raw texts: {label}", "texts", raw, **{LENGTH: "0"})


def _of_pages() -> Iterator[TritonRequest]:
    for path in (
        *("", "/health/live", "/health/ready", "/none", "/models", "/models/stats"),
        *(f"/models/{model.name}{below}" for model in MODELS for below in ("", "/config")),
        *(f"/models/pair{below}" for below in ("/ready", "/stats", "/none", "/infer")),
        *(f"/models/pair/versions/{version}{below}" for version in ("1", "7", "x")
          for below in ("", "/ready", "/config", "/stats")),
        *(f"/models/nobody{below}" for below in ("", "/ready", "/config", "/stats")),
    ):  # fmt: skip
        yield TritonRequest(f"GET {path}", "GET", f"/v2{path}")
    for path in ("", "/models/pair", "/models/pair/config"):
        yield TritonRequest(f"POST {path}", "POST", f"/v2{path}")
    yield TritonRequest("GET /repository/index", "GET", "/v2/repository/index")
    ready = ("true", "false", "1", '"true"', "null")
    for text in (
        "",
        "{}",
        "[]",
        "null",
        "nonsense",
        '{"x": 1}',
        *(f'{{"ready": {value}}}' for value in ready),
    ):
        yield TritonRequest(f"index {text}", "POST", "/v2/repository/index", text.encode())


def requests() -> list[TritonRequest]:
    """Return all requests with unique names; those that end Triton are last."""
    empty = {
        "inputs": [tensor("in0", CACHE[:1, :, :0], "FP32"), tensor("in1", TOKENS[:1], "INT64")]
    }
    deadly = infer("classes of no values", "cache", {**empty, "outputs": _top(1)})
    large = infer(
        "a dimension of 2**31", "pair", {"inputs": [tensor("in0", PAIR, "FP32", shape=[2**31, 2])]}
    )
    entry = {"name": "in0", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}
    texts = infer("classes of texts", "texts", {"inputs": [entry], "outputs": _top(1)})
    requests = [
        *_of_pages(),
        *_of_bodies(),
        *_of_tensors(),
        *_of_texts(),
        *_of_fields(),
        deadly,
        large,
        texts,
    ]
    assert len({request.name for request in requests}) == len(requests)
    return requests
