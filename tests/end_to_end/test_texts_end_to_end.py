"""Texts at a real server: many, long and malformed ones, and the callers beside them."""

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from echo_models import Echo, write_echo
from infer_messages import raw_of, read_answer
from live_server import Server, serving, temporary_home
from messages import LENGTH

MANY = 60 * 2**20


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("echoes")
    write_echo(repository, Echo("text", ["BYTES"], [(-1,)]))
    settings = {"FITSERVE_MODEL_REPOSITORY": str(repository), "FITSERVE_DEVICE": "cpu"}
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def ask(
    client: httpx.Client, shape: Any, tail: bytes | None = None, data: Any = None, size: Any = None
) -> httpx.Response:
    """Send one row of texts, as JSON or as bytes, and ask for them in the same form."""
    entry = {"name": "in0", "shape": shape, "datatype": "BYTES"}
    if tail is None:
        content = json.dumps({"inputs": [{**entry, "data": data}]}).encode()
        return client.post("/v2/models/text/infer", content=content)
    entry["parameters"] = {"binary_data_size": len(tail) if size is None else size}
    body = {"inputs": [entry], "parameters": {"binary_data_output": True}}
    header = json.dumps(body).encode()
    headers = {LENGTH: str(len(header))}
    return client.post("/v2/models/text/infer", content=header + tail, headers=headers)


def texts_in(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text[:500]
    length = response.headers.get(LENGTH)
    return read_answer(response.content, None if length is None else int(length)).outputs["out0"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    "texts", [["é"], ["a"] * 50_000, ["long " * 2**20], ["", "a\0b", "😀"] * 10_000]
)
def test_many_and_long_texts_come_back(
    texts: list[str], binary: bool, client: httpx.Client
) -> None:
    tail = raw_of(np.array(texts, object)) if binary else None
    assert texts_in(ask(client, [1, len(texts)], tail, texts)) == [texts]


@pytest.mark.parametrize(
    ("shape", "tail", "message"),
    [
        ([1, 2], raw_of(np.array(["a"], object)), "end within string 2 of 2"),
        ([1, 1], raw_of(np.array(["a", "b"], object)), "end after 5"),
        ([1, 1], b"\xff\xff\xff\xffabc", "end within string 1 of 1"),
        ([1, 1], raw_of(np.array([b"\xff"], object)), "is no UTF-8"),
        ([1, 40_000], raw_of(np.array([b"\xff"] * 40_000, object)), "String 1 .* is no UTF-8"),
    ],
)
def test_malformed_bytes_get_a_sentence(
    shape: Any, tail: bytes, message: str, client: httpx.Client
) -> None:
    response = ask(client, shape, tail)
    assert response.status_code == 400
    (error,) = response.json().values()
    assert re.search(message, error)
    assert texts_in(ask(client, [1, 1], None, ["on"])) == [["on"]]


@pytest.mark.parametrize("binary", [True, False])
def test_a_large_body_of_empty_texts_is_refused_and_others_do_not_wait(
    binary: bool, client: httpx.Client, server: Server
) -> None:
    count = MANY // (4 if binary else 3)
    found: list[httpx.Response] = []

    def flood() -> None:
        with httpx.Client(base_url=server.url, timeout=120) as other:
            if binary:
                found.append(ask(other, [1, count], bytes(MANY)))
                return
            data = b'"",' * (count - 1) + b'""'
            head = b'{"inputs": [{"name": "in0", "datatype": "BYTES", "shape": [1, %d], "data": ['
            content = head % count + data + b"]}]}"
            found.append(other.post("/v2/models/text/infer", content=content))

    thread = threading.Thread(target=flood)
    thread.start()
    longest = 0.0
    while thread.is_alive():
        started = time.monotonic()
        assert texts_in(ask(client, [1, 1], None, ["on"])) == [["on"]]
        longest = max(longest, time.monotonic() - started)
        time.sleep(0.01)
    assert found[0].status_code == 400
    said = "strings by its shape; a request may have 100,000" if binary else "too many strings"
    assert said in found[0].json()["error"]
    assert longest < 5, "a body of 60 MiB holds others up"
