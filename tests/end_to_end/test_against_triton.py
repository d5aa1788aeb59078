"""The service and a real Triton: equal requests to both, and a reason for each difference.

The test is skipped without Triton.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from echo_models import write_echo
from live_server import Server, serving, temporary_home
from messages import LENGTH, Json
from real_triton import Triton, installation
from triton_requests import MODELS, TritonRequest, requests

LARGEST = 4096
"""The rows of Triton's largest batch."""
ENDED = 0
"""The status if Triton ended without a response."""


class Response(NamedTuple):
    """A response: its status, 0 if there was none, and its body without compression."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Difference(NamedTuple):
    """Requests, by name, for which the statuses of Triton and the service differ, and why."""

    names: str
    triton: int
    ours: int
    reason: str


FAULT = "the request is at fault, and 500 would say that the service is"
STATUSES = (
    Difference("*", 500, 400, FAULT),
    Difference("classes of no values", ENDED, 400, "the request ends Triton"),
    Difference("a dimension of 2[*][*]31", ENDED, 400, "the request ends Triton"),
    Difference("GET /models", 404, 200, "a list of the models is ours alone"),
    Difference("GET /models/*/ready", 400, 404, "an unknown model is 404 at every address of it"),
    Difference("GET /models/*/stats", 400, 404, "an unknown model is 404 at every address of it"),
    Difference("index *", 200, 400, "a body is an object, or there is none"),
    Difference("content encoding *", 501, 415, "415 is HTTP's for it; 501 says that we lack it"),
    Difference("content encoding x-gzip", 501, 200, "HTTP says that it is gzip's other name"),
    Difference("content encoding two members", 500, 200, "gzip says that members may follow"),
    Difference("content encoding cut", 200, 400, "what was cut off may have been sent otherwise"),
    Difference("content encoding junk behind", 200, 400, "it is no gzip"),
    Difference("data *", 200, 400, "data nested in another way than the shape may be another's"),
    Difference("*data.0 = [[]1[]]", 200, 400, "nested as no shape says"),
    Difference("empty cache: inputs.0.data = *", 200, 400, "the data of an empty tensor is a list"),
    Difference("*.shape.0 = 0", 200, 400, "the size of the bytes is not that of the shape"),
    Difference("*.data.0 = 1e+39", 200, 400, "it is infinite as FP32, and was not sent as such"),
    Difference("NaN in JSON", 200, 400, "JSON has no NaN, and few readers take Triton's"),
    Difference("an output twice", 200, 400, "one of two tensors of one name is lost to a client"),
    Difference("*.parameters = *", 200, 400, "parameters are an object"),
    Difference("*.classification = 0", 200, 400, "no classes are not what was meant"),
    Difference("texts *", 200, 400, "texts nested in another way than the shape says"),
    Difference("bytes of texts *", 200, 400, "JSON has no other bytes than UTF-8"),
    Difference("classes of texts", ENDED, 400, "the request ends Triton"),
    Difference("half: parameters*", 400, 200, "halves can be written in JSON"),
    Difference("classes of BOOL", 400, 200, "truth values can be compared"),
    Difference("classes of FP16", 400, 200, "halves can be compared"),
    Difference("a parameter of one's own = *", 400, 200, "unknown parameters are ignored"),
    Difference("pair: parameters.sequence_id = *", 500, 200, "unknown parameters are ignored"),
    Difference("* = None", 500, 200, "null is what is left out"),
    Difference("more rows than a batch", 400, 200, "a large request is split"),
    Difference("shared memory*", 404, 400, "there is none here, whatever its name"),
    Difference("whole numbers *", 500, 200, "some clients write whole numbers as floats alone"),
    Difference(
        "whole plain: * = 1.0", 500, 200, "some clients write whole numbers as floats alone"
    ),
    Difference("truth values *", 500, 200, "some clients write truth values as numbers alone"),
    Difference(
        "flags: inputs.0.data.0 = *", 500, 200, "some clients write truth values as numbers"
    ),
)

NOT_SENT = {
    *("runtime", "batch_input", "batch_output", "optimization", "cc_model_filenames"),
    *("metric_tags", "parameters", "model_warmup", "is_shape_tensor", "allow_ragged_batch"),
    *("is_non_linear_format_io", "secondary_devices", "profile", "passive", "host_policy"),
}
"""Keys of Triton's configurations for features that the service lacks."""
SENT_ADDITIONALLY = {"dynamic_batching", "reason", "ready", "live", "name"}
"""Keys that only the service sends: batching is always on, an index has reasons, and some clients
parse health as JSON."""


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    installed = installation()
    if installed is None:
        pytest.skip(
            "FITSERVE_TEST_TRITON names no Python with nvidia-pytriton and a numpy before 2"
        )
    server = Triton(tmp_path_factory.mktemp("triton"), MODELS, LARGEST, installed)
    yield server
    server.end()


@pytest.fixture(scope="module")
def ours(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("echoes")
    for model in MODELS:
        write_echo(repository, model)
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(repository),
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_INTRA_OP_THREADS": "1",
        "FITSERVE_RUNTIME": "onnx",
    }
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        yield server


def ask(client: httpx.Client, url: str, case: TritonRequest) -> Response:
    headers = {"Accept-Encoding": "identity", **case.headers}
    content = case.content
    with client.stream(case.method, url + case.path, content=content, headers=headers) as got:
        body = b"".join(got.iter_raw())
        unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress, "": bytes}
        encoding = got.headers.get("content-encoding", "")
        return Response(got.status_code, got.headers, unpack[encoding](body))


@pytest.mark.timeout(900)
def test_every_response_equals_tritons_or_differs_for_a_known_reason(
    triton: Triton, ours: Server
) -> None:
    used = set()
    wrong = []
    with httpx.Client(timeout=60) as client, httpx.Client(timeout=10) as other:
        for case in requests():
            response = ask(client, ours.url, case)
            try:
                expected = ask(other, triton.url, case)
            except httpx.TransportError:
                expected = Response(ENDED, {}, b"")
            if response.status != expected.status:
                row = (expected.status, response.status)
                reasons = [
                    difference
                    for difference in STATUSES
                    if difference[1:3] == row and fnmatchcase(case.name, difference.names)
                ]
                used.update(reasons)
                text = "" if reasons else f"{expected.status} there and {response.status} here"
            else:
                text = other_content(case, expected, response)
            if response.status >= 400:
                text = text or no_sentence(response)
            if text:
                wrong.append(
                    f"{case.name}: {text}: {expected.body[:150]!r} {response.body[:150]!r}"
                )
            if expected.status == ENDED:
                triton.restart()
    assert not wrong, "\n".join([f"{len(wrong)} answers differ:", *wrong[:40]])
    stale = [difference.names for difference in STATUSES if difference not in used]
    assert not stale, f"these differences are no more: {stale}"


def no_sentence(response: Response) -> str:
    """Return what is wrong with an error of the service; empty if it is one sentence as JSON."""
    content = json.loads(response.body)
    is_one = list(content) == ["error"] and re.fullmatch(r"[A-Z'].{5,400}\.", content["error"])
    return "" if is_one else "no sentence"


def other_content(case: TritonRequest, expected: Response, response: Response) -> str:
    """Return how two responses of one status differ; empty if they do not."""
    if expected.status >= 400:
        if "unknown" not in case.name and "nobody" not in case.path:
            return ""
        message = json.loads(expected.body)["error"]
        return "" if json.loads(response.body)["error"].startswith(message) else "another sentence"
    if case.headers.get("Accept-Encoding"):
        names = [reply.headers.get("content-encoding") for reply in (expected, response)]
        if names[0] != names[1]:
            return f"the coding {names[0]} there and {names[1]} here"
    if case.path.endswith("/infer"):
        return other_tensors(expected, response)
    if not expected.body:
        return ""
    return other_keys(json.loads(expected.body), json.loads(response.body))


def other_keys(expected: Any, actual: Any) -> str:
    """Return the keys that only one of the two has, at any depth."""
    if isinstance(expected, list) and isinstance(actual, list) and expected and actual:
        return other_keys(expected[0], actual[0])
    if not isinstance(expected, dict) or not isinstance(actual, dict):
        return "" if type(expected) is type(actual) else "another type"
    if missing := set(expected) - set(actual) - NOT_SENT:
        return f"without {sorted(missing)}"
    if more := set(actual) - set(expected) - SENT_ADDITIONALLY:
        return f"with {sorted(more)}"
    inner = (other_keys(expected[key], actual[key]) for key in set(expected) & set(actual))
    return next((text for text in inner if text), "")


def other_tensors(expected: Response, response: Response) -> str:
    """Return how two inference responses differ; empty if all tensors are equal."""
    (theirs, their_tail), (mine, my_tail) = _split(expected), _split(response)
    outputs = theirs.pop("outputs"), mine.pop("outputs")
    if theirs != {key: value for key, value in mine.items() if key != "id" or value}:
        return "another head"  # Triton ignores an empty ID
    if their_tail != my_tail:
        return "other bytes"
    for expected_output, output in zip(*outputs, strict=True):
        left, right = expected_output.pop("data", None), output.pop("data", None)
        if expected_output != output:
            return "another output"
        if expected_output["datatype"] in ("FP32", "FP64") and left is not None:
            left, right = (np.array(data, np.float32).tolist() for data in (left, right))
        if left != right:
            return "other data"
    return ""


def _split(response: Response) -> tuple[Json, bytes]:
    size = int(response.headers.get(LENGTH, len(response.body)))
    return json.loads(response.body[:size]), response.body[size:]
