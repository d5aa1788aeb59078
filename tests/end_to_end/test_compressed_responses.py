"""`Accept-Encoding`: large responses are compressed on request, on both paths."""

import gzip
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from messages import CURVE, LENGTH, curve, tensor

ROWS = np.linspace(0, 20, 6_000, dtype=np.float32).reshape(-1, 1)
INFER = f"/v2/models/{CURVE}/infer"
BODY: dict[str, Any] = {"inputs": [tensor("x", ROWS)]}
BINARY = {**BODY, "parameters": {"binary_data_output": True}}
UNPACK = {"gzip": gzip.decompress, "deflate": zlib.decompress}
# A query makes a request take the ASGI path.
ASKED = {
    "JSON, on the fast path": ("POST", INFER, BODY),
    "JSON, on the ASGI path": ("POST", INFER + "?on=asgi", BODY),
    "binary, on the fast path": ("POST", INFER, BINARY),
    "binary, on the ASGI path": ("POST", INFER + "?on=asgi", BINARY),
    "typed, on the fast path": ("POST", "/predict_curve", {"x": ROWS[:, 0].tolist()}),
    "typed, on the ASGI path": ("POST", "/predict_curve?on=asgi", {"x": ROWS[:, 0].tolist()}),
    "the description": ("GET", "/docs.json", None),
}


def raw(client: httpx.Client, kind: str, accepted: str) -> tuple[httpx.Headers, bytes]:
    """Return the headers and body of a response as received."""
    method, path, content = ASKED[kind]
    headers = {"Accept-Encoding": accepted}
    with client.stream(method, path, json=content, headers=headers) as response:
        assert response.status_code == 200
        return response.headers, b"".join(response.iter_raw())


@pytest.mark.parametrize("what", list(ASKED))
def test_a_large_response_has_the_requested_coding(what: str, client: httpx.Client) -> None:
    headers, plain = raw(client, what, "identity")
    assert "content-encoding" not in headers
    assert len(plain) >= 16_384
    for accepted, coding in (
        ("gzip, deflate", "gzip"),
        ("deflate, gzip", "deflate"),
        ("gzip;q=0.1, deflate;q=0.9", "deflate"),
        ("gzip", "gzip"),
    ):
        packed_headers, packed = raw(client, what, accepted)
        assert packed_headers["content-encoding"] == coding
        assert packed_headers["vary"] == "accept-encoding"
        assert int(packed_headers["content-length"]) == len(packed) < len(plain)
        assert packed_headers["content-type"] == headers["content-type"]
        assert packed_headers.get(LENGTH) == headers.get(LENGTH)
        assert UNPACK[coding](packed) == plain
    for accepted in ("", "br", "gzip;q=0", "*"):
        assert raw(client, what, accepted)[1] == plain


def test_small_responses_and_errors_are_not_compressed(client: httpx.Client) -> None:
    for response in (curve(client), client.get("/v2"), client.post(INFER, content=b"{")):
        assert response.request.headers["accept-encoding"].startswith("gzip, deflate")
        assert "content-encoding" not in response.headers


def test_a_head_request_gets_the_uncompressed_length(client: httpx.Client) -> None:
    plain = client.get("/docs.json", headers={"Accept-Encoding": "identity"})
    head = client.head("/docs.json", headers={"Accept-Encoding": "gzip"})
    assert head.headers["content-length"] == plain.headers["content-length"]


@pytest.mark.parametrize("path", [INFER, INFER + "?on=asgi"])
def test_a_gzip_body_of_several_members_is_accepted(path: str, client: httpx.Client) -> None:
    content = json.dumps({"inputs": [tensor("x", ROWS[:3])]}).encode()
    members = b"".join(
        gzip.compress(content[start : start + 20]) for start in range(0, len(content), 20)
    )
    headers = {"Content-Encoding": "gzip"}
    expected = client.post(path, content=content).json()
    assert client.post(path, content=members, headers=headers).json() == expected
    chunks = (members[start : start + 7] for start in range(0, len(members), 7))
    assert client.post(path, content=chunks, headers=headers).json() == expected
