"""The V2 protocol over HTTP: valid and invalid requests."""

import json
import re
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from messages import (
    CURVE,
    IMAGES,
    LENGTH,
    OF_A_MODEL,
    ONE_IMAGE,
    POINTS,
    Json,
    X,
    assert_refused,
    binary,
    curve,
    infer,
    read,
    tensor,
)
from numpy.typing import NDArray

from models.package.repository import ModelRepository

EXTENSIONS = [
    *("binary_tensor_data", "classification", "model_configuration"),
    *("parameters", "schedule_policy", "statistics"),
]


# Metadata of the server and its models.


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_describes_itself(path: str, client: httpx.Client) -> None:
    content = client.get(path).json()
    assert sorted(content) == ["extensions", "name", "version"]
    assert content["name"] == "fitserve"
    assert re.fullmatch(r"\d+\.\d+\.\d+", content["version"])
    assert content["extensions"] == EXTENSIONS


def test_health_is_json_as_some_clients_parse_it(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json()["ready"] is True


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_every_model_describes_itself(
    version: str, client: httpx.Client, repository: ModelRepository
) -> None:
    names = client.get("/v2/models").json()["models"]
    assert names == repository.names()
    for name in names:
        card, path = repository.get(name).card, f"/v2/models/{name}{version}"
        metadata = client.get(path).json()
        specs = {"inputs": card.inputs, "outputs": card.outputs}
        tensors = {
            side: [
                {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
                for spec in side_specs
            ]
            for side, side_specs in specs.items()
        }
        platform = metadata.pop("platform")
        columns = metadata.pop("parameters", {})
        assert bool(columns) is (card.table is not None)
        assert platform in ("onnx_onnxv1", "pytorch_torchscript")
        assert metadata == {"name": name, "versions": [card.version], **tensors}
        assert client.get(f"{path}/ready").json() == {"name": name, "ready": True}
        config = client.get(f"{path}/config").json()
        platforms = {"onnx_onnxv1": "onnxruntime_onnx", "pytorch_torchscript": "pytorch_libtorch"}
        assert (config["name"], config["platform"]) == (name, platforms[platform])
        assert config["max_batch_size"] >= 1
        assert isinstance(config["dynamic_batching"], dict)
        for side, side_specs in (("input", card.inputs), ("output", card.outputs)):
            for entry, spec in zip(config[side], side_specs, strict=True):
                assert entry["name"] == spec.name
                assert entry["data_type"] == f"TYPE_{spec.datatype}"
                assert entry["dims"] == list(
                    spec.shape[1:]
                )  # the batch dimension is in max_batch_size
                if side == "input":
                    assert entry["format"] == "FORMAT_NONE"
                else:
                    assert bool(entry["label_filename"]) is bool(spec.labels)


def test_the_index_of_the_repository_names_every_model(
    client: httpx.Client, repository: ModelRepository
) -> None:
    for sent in ({}, {"json": {}}, {"json": {"ready": True}}):
        index = client.post("/v2/repository/index", **sent).json()
        assert {entry["name"] for entry in index} == set(repository.names())
        for entry in index:
            assert sorted(entry) == ["name", "reason", "state", "version"]
            assert (entry["version"], entry["state"], entry["reason"]) == ("1", "READY", "")


def test_no_model_is_loaded_or_unloaded_by_request(client: httpx.Client) -> None:
    for verb in ("load", "unload"):
        response = client.post(f"/v2/repository/models/{CURVE}/{verb}", json={})
        assert_refused(response, response.status_code)
        assert response.status_code in (404, 405)
    assert client.get(f"/v2/models/{CURVE}/ready").status_code == 200


STATISTICS = ("success", "fail", "queue", "cache_hit", "cache_miss")
COMPUTE = ("compute_input", "compute_infer", "compute_output")


def assert_duration(duration: Json) -> None:
    assert sorted(duration) == ["count", "ns"]
    assert all(type(value) is int and value >= 0 for value in duration.values())


@pytest.mark.parametrize(
    "path",
    [f"/v2/models/{CURVE}/stats", f"/v2/models/{CURVE}/versions/1/stats", "/v2/models/stats"],
)
def test_the_statistics_grow_by_the_requests(path: str, client: httpx.Client) -> None:
    def of_the_curve() -> Json:
        entries = {entry["name"]: entry for entry in client.get(path).json()["model_stats"]}
        if path == "/v2/models/stats":
            assert list(entries) == client.get("/v2/models").json()["models"]
        else:
            assert list(entries) == [CURVE]
        entry: Json = entries[CURVE]
        return entry

    def batches(entry: Json, rows: int) -> int:
        batches_of_rows = [batch for batch in entry["batch_stats"] if batch["batch_size"] == rows]
        return sum(batch["compute_infer"]["count"] for batch in batches_of_rows)

    before = of_the_curve()
    for _ in range(4):
        assert curve(client).status_code == 200
    after = of_the_curve()
    assert after["version"] == "1"
    assert abs(after["last_inference"] / 1000 - time.time()) < 60
    assert after["inference_count"] - before["inference_count"] == 4 * len(X)
    assert after["execution_count"] - before["execution_count"] == 4
    assert batches(after, len(X)) - batches(before, len(X)) == 4
    for part in (*STATISTICS, *COMPUTE):
        first, second = before["inference_stats"][part], after["inference_stats"][part]
        assert_duration(second)
        idle = part in ("fail", "cache_hit", "cache_miss")
        assert second["count"] - first["count"] == (0 if idle else 4), part
        assert second["ns"] == first["ns"] if idle else second["ns"] > first["ns"], part
    for batch in after["batch_stats"]:
        assert set(batch) == {"batch_size", *COMPUTE}
        for part in COMPUTE:
            assert_duration(batch[part])


@pytest.mark.parametrize("below", OF_A_MODEL)
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("lenet", "Request for unknown model: 'lenet' is not found; "),
        ("lenet/versions/1", "Request for unknown model: 'lenet' is not found; "),
        (f"{CURVE}/versions/2", ""),
        (f"{CURVE}/versions/latest", ""),
        (f"{CURVE}/versions/01", ""),
        (f"{CURVE}/versions/" + "9" * 400, ""),
        ("..%2F" + CURVE, ""),
    ],
)
def test_an_unknown_model_or_version_is_a_404(
    model: str, words: str, below: str, client: httpx.Client
) -> None:
    path = f"/v2/models/{model}{below}"
    body = {"inputs": [tensor("x", X)]}
    response = client.post(path, json=body) if below == "/infer" else client.get(path)
    assert_refused(response, 404, words)


@pytest.mark.parametrize(
    "path",
    ["/v2x", "/v1", "/v2/none", "/v2/health", "/v2/health/none", "/v2/repository",
     f"/v2/models/{CURVE}/none", f"/v2/models/{CURVE}/versions", f"/v2/models/{CURVE}/infer/more",
     f"/v2/models/{CURVE}/versions/1/none"],
)  # fmt: skip
def test_an_unknown_path_is_a_404(path: str, client: httpx.Client) -> None:
    assert_refused(client.get(path), 404)
    assert_refused(client.post(path, json={}), 404)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_a_wrong_method_is_a_405_that_names_the_right_one(
    method: str, client: httpx.Client
) -> None:
    of_models = (f"/v2/models/{CURVE}", f"/v2/models/{CURVE}/versions/1")
    gets = ["/v2", "/v2/", "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/models/stats"]
    gets += [model + below for model in of_models for below in OF_A_MODEL if below != "/infer"]
    posts = ["/v2/repository/index", *(f"{model}/infer" for model in of_models)]
    for allowed, paths in (("GET", gets), ("POST", posts)):
        for path in paths if method != allowed else ():
            response = client.request(method, path)
            assert_refused(response, 405, allowed)
            assert response.headers["allow"] == {"GET": "GET, HEAD", "POST": "POST"}[allowed]


# One inference.


def test_a_request_needs_only_inputs(client: httpx.Client) -> None:
    content = curve(client).json()
    assert sorted(content) == ["model_name", "model_version", "outputs"]
    assert (content["model_name"], content["model_version"]) == (CURVE, "1")
    (output,) = content["outputs"]
    assert sorted(output) == ["data", "datatype", "name", "shape"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [3, 1])
    assert [type(value) for value in output["data"]] == [float] * 3
    for path in (f"/v2/models/{CURVE}/versions/1/infer", "/v2/models/curve%2Dtanh/infer"):
        assert client.post(path, json={"inputs": [tensor("x", X)]}).json() == content


@pytest.mark.parametrize("identity", ["call-7", "", 'ü ☃ " \\ \u0000', "x" * 5000])
def test_the_id_is_returned(identity: str, client: httpx.Client) -> None:
    assert curve(client, id=identity).json()["id"] == identity
    output = {"name": "y", "parameters": {"binary_data": True}}
    response = curve(client, id=identity, outputs=[output])
    header = response.content[: int(response.headers[LENGTH])]
    assert json.loads(header)["id"] == identity


@pytest.mark.parametrize("kind", ["", "application/json", "application/octet-stream", "text/plain"])
def test_the_content_type_does_not_matter(kind: str, client: httpx.Client) -> None:
    content = json.dumps({"inputs": [tensor("x", X)]}).encode()
    request = client.build_request("POST", f"/v2/models/{CURVE}/infer", content=content)
    assert "content-type" not in request.headers
    if kind:
        request.headers["Content-Type"] = kind
    np.testing.assert_array_equal(read(client.send(request))["y"], read(curve(client))["y"])


@pytest.mark.parametrize(
    "more",
    [
        {"model_name": CURVE, "nobody": {"knows": ["this"]}},
        {"parameters": {}},
        {"parameters": {"mine": "x", "other": 1.5, "third": False, "content_type": "np"}},
        {"parameters": {"priority": 1, "timeout": 20_000_000, "sequence_id": 0}},
        {"outputs": [{"name": "y"}]},
        {"outputs": [{"name": "y", "parameters": {"content_type": "np"}}]},
        {"inputs": [tensor("x", X, parameters={"content_type": "np"})]},
        {"inputs": [tensor("x", X, nobody=1)]},
        {"inputs": [tensor("x", X, data=X.tolist())]},
        {"inputs": [tensor("x", X, data=[1.5, -2, 20])]},
    ],
    ids=str,
)
def test_fields_without_effect_are_accepted(more: Json, client: httpx.Client) -> None:
    assert curve(client, **more).json() == curve(client).json()


def test_nested_and_flat_images_are_the_same(client: httpx.Client) -> None:
    flat = infer(client, {"inputs": [tensor("image", ONE_IMAGE)]}, model=IMAGES)
    nested = tensor("image", ONE_IMAGE, data=ONE_IMAGE.tolist())
    assert infer(client, {"inputs": [nested]}, model=IMAGES).json() == flat.json()


# Invalid requests.

ROW = np.zeros((1, 1), np.float32)
WRONG: dict[str, Json] = {
    "no object": {"inputs": ["x"]},
    "inputs missing": {"inputs": None},
    "inputs no list": {"inputs": {"name": "x"}},
    "inputs empty": {"inputs": []},
    "the input twice": {"inputs": [tensor("x", ROW), tensor("x", ROW)]},
    "another input too": {"inputs": [tensor("x", ROW), tensor("z", ROW)]},
    "the input's name": {"inputs": [tensor("z", ROW)]},
    "a name that is no text": {"inputs": [tensor("x", ROW, name=["x"])]},
    "no name": {"inputs": [tensor("x", ROW, name=None)]},
    "id no text": {"id": 5},
    "parameters no object": {"parameters": [1]},
    "a triton_ parameter": {"parameters": {"triton_enable_empty_final_response": True}},
    "a triton_ parameter of an input": {"inputs": [tensor("x", ROW, parameters={"triton_x": 1})]},
    "binary_data_output no flag": {"parameters": {"binary_data_output": "yes"}},
    "binary_data no flag": {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
    "timeout a text": {"parameters": {"timeout": "soon"}},
    "timeout a flag": {"parameters": {"timeout": True}},
    "timeout negative": {"parameters": {"timeout": -1}},
    "priority a text": {"parameters": {"priority": "high"}},
    "an unknown output": {"outputs": [{"name": "z"}]},
    "an output twice": {"outputs": [{"name": "y"}, {"name": "y"}]},
    "an output without a name": {"outputs": [{}]},
    "outputs no list": {"outputs": {"name": "y"}},
    "an output no object": {"outputs": ["y"]},
    "no data": {"inputs": [tensor("x", ROW, data=None)]},
    "data and bytes": {"inputs": [tensor("x", ROW, parameters={"binary_data_size": 4})]},
    "bytes that never come": {"inputs": [binary("x", ROW)]},
    "no rows": {"inputs": [tensor("x", ROW, shape=[0, 1], data=[])]},
    "too few values": {"inputs": [tensor("x", ROW, data=[])]},
    "too many values": {"inputs": [tensor("x", ROW, data=[1, 2])]},
    "data no list": {"inputs": [tensor("x", ROW, data=1)]},
    "data an object": {"inputs": [tensor("x", ROW, data={"0": 1})]},
    "ragged": {"inputs": [tensor("x", X, data=[[1], [2, 3], []])]},
    "nested too deep": {"inputs": [tensor("x", ROW, data=[[[1]]])]},
    "rows as columns": {"inputs": [tensor("x", X, data=[[1, 2, 3]])]},
    "nested in part": {"inputs": [tensor("x", X, data=[[1], 2, 3])]},
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_wrong_request_is_a_400(what: str, client: httpx.Client) -> None:
    assert_refused(curve(client, **WRONG[what]))


def test_an_invalid_classification_count_is_a_400(client: httpx.Client) -> None:
    for count in (0, -1, 1.5, "3", True, None, [1]):
        output = {"name": "y", "parameters": {"classification": count}}
        assert_refused(curve(client, outputs=[output]), 400, "classification")


@pytest.mark.parametrize("datatype", ["UINT8", "FP16", "FP64", "INT32", "BYTES", "fp32", "", 5, []])
def test_another_datatype_is_a_400(datatype: Any, client: httpx.Client) -> None:
    assert_refused(infer(client, {"inputs": [tensor("x", ROW, datatype=datatype)]}), 400, "FP32")


@pytest.mark.parametrize(
    "shape",
    [
        [], [1], [1, 2], [1, 1, 1], [2, 1], [1, 0], [-1, 1], [1, -1], [-1, -1],
        [2**60, 1], [2**60, 2**60], [2**63, 1], [2**64 + 1, 1], [2**31, 2**33], [10**30, 1],
        [1.0, 1], [1.5, 1], [True, 1], ["1", 1], [[1], 1], [None, 1], "11", 1, {"0": 1},
    ],
    ids=str,
)  # fmt: skip
def test_another_shape_is_a_400_however_large(shape: Any, client: httpx.Client) -> None:
    assert_refused(infer(client, {"inputs": [tensor("x", ROW, shape=shape)]}))
    binary_request = binary("x", ROW, shape=shape)
    assert_refused(infer(client, {"inputs": [binary_request]}, ROW.tobytes()))


def with_value(literal: str) -> dict[str, Any]:
    """Return a request for one point of the curve, written as this JSON literal."""
    body = json.dumps({"inputs": [tensor("x", ROW, data=["VALUE"])]})
    return {"content": body.replace('"VALUE"', literal).encode()}


@pytest.mark.parametrize("literal", ["1", "-3", "1.5", "1e-50", "123456789012", "3.4e38"])
def test_any_number_that_fits_is_an_fp32(literal: str, client: httpx.Client) -> None:
    response = client.post(f"/v2/models/{CURVE}/infer", **with_value(literal))
    rows = np.array([[float(literal)]], np.float32)
    expected = infer(client, {"inputs": [binary("x", rows)]}, rows.tobytes())
    np.testing.assert_array_equal(read(response)["y"], read(expected)["y"])


@pytest.mark.parametrize(
    "literal",
    ['"1"', "true", "false", "null", "NaN", "Infinity", "-Infinity", "1e39", "-1e39", "1e400",
     "{}", "[[]]", "01", "1,"],
)  # fmt: skip
def test_a_value_that_is_not_fp32_is_a_400(literal: str, client: httpx.Client) -> None:
    assert_refused(client.post(f"/v2/models/{CURVE}/infer", **with_value(literal)))


@pytest.mark.parametrize("value", [True, False, 256, -1, 10**30, 1.5, "1", "", None, [1], {}])
def test_a_value_that_is_not_uint8_is_a_400(value: Any, client: httpx.Client) -> None:
    data = [0] * 783 + [value]
    assert_refused(infer(client, {"inputs": [tensor("image", ONE_IMAGE, data=data)]}, model=IMAGES))


@pytest.mark.parametrize(
    "content",
    [
        b"", b" ", b"null", b"[]", b'"x"', b"{", b"{}", b'{"inputs": [}', b"\xff\xfe", b"x" * 1000,
        b"[" * 250_000, b'{"inputs":' * 100_000, b'{"inputs": ' + b"[" * 250_000,
        b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": '
        + b"[" * 250_000 + b"]" * 250_000 + b"}]}",
    ],
    ids=lambda content: f"{content[:12]!r}...{len(content)}",
)  # fmt: skip
def test_a_body_that_is_not_a_request_is_a_400_at_any_depth(
    content: bytes, client: httpx.Client
) -> None:
    assert_refused(client.post(f"/v2/models/{CURVE}/infer", content=content))
    assert curve(client).status_code == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS: Sequence[tuple[str | int, ...]] = (
    ("id",), ("parameters",), ("parameters", "timeout"), ("parameters", "binary_data_output"),
    ("inputs",), ("inputs", 0), ("inputs", 0, "name"), ("inputs", 0, "shape"),
    ("inputs", 0, "shape", 0), ("inputs", 0, "datatype"), ("inputs", 0, "data"),
    ("inputs", 0, "data", 1), ("inputs", 0, "parameters"),
    ("inputs", 0, "parameters", "binary_data_size"), ("outputs",), ("outputs", 0),
    ("outputs", 0, "name"), ("outputs", 0, "parameters"),
    ("outputs", 0, "parameters", "binary_data"), ("outputs", 0, "parameters", "classification"),
)  # fmt: skip
over_http = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@over_http
@given(st.dictionaries(st.sampled_from(FIELDS), json_values, min_size=1, max_size=3))
def test_a_request_with_any_fields_is_served_or_refused(
    client: httpx.Client, changes: dict[tuple[str | int, ...], Any]
) -> None:
    body: Any = {
        "id": "7",
        "parameters": {},
        "inputs": [tensor("x", X, parameters={}) | {"shape": [3, 1]}],
        "outputs": [{"name": "y", "parameters": {}}],
    }
    for path, value in sorted(changes.items(), key=lambda item: -len(item[0])):
        within = body
        for key in path[:-1]:
            within = within[key]
        within[path[-1]] = value
    response = infer(client, body)
    if response.status_code == 200:
        read(response)
    else:
        assert response.status_code in (400, 504), response.text
        assert_refused(response, response.status_code)


@over_http
@given(st.binary(max_size=60), st.none() | st.integers(-2, 70) | st.text("0123456789-+ax."))
def test_any_bytes_with_any_header_length_are_served_or_refused(
    client: httpx.Client, content: bytes, length: str | int | None
) -> None:
    headers = {} if length is None else {LENGTH: str(length)}
    response = client.post(f"/v2/models/{CURVE}/infer", content=content, headers=headers)
    if response.status_code == 200:  # one row, raw
        assert (len(content), int(str(length))) == (4, 0)
        read(response)
    else:
        assert_refused(response)


# Binary tensors.

finite = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.just(2)),
    elements=st.floats(-1e6, 1e6, width=32),
)


@over_http
@given(finite)
def test_json_and_binary_are_the_same_to_the_last_bit(
    client: httpx.Client, rows: NDArray[np.float32]
) -> None:
    responses = []
    for sent, tail in ((tensor("point", rows), b""), (binary("point", rows), rows.tobytes()),
                       (tensor("point", rows, data=rows.tolist()), b"")):  # fmt: skip
        for binary_output in (False, True):
            body = {"inputs": [sent], "parameters": {"binary_data_output": binary_output}}
            response = infer(client, body, tail, POINTS)
            assert (LENGTH in response.headers) is binary_output
            responses.append(read(response)["probabilities"])
    for reply in responses:
        np.testing.assert_array_equal(reply, responses[0], strict=True)
    assert responses[0].shape == rows.shape


def test_the_tensor_may_begin_at_any_byte(client: httpx.Client) -> None:
    expected = read(curve(client))["y"]
    for length in range(9):
        body = {"id": "x" * length, "inputs": [binary("x", X)]}
        np.testing.assert_array_equal(read(infer(client, body, X.tobytes()))["y"], expected)


@pytest.mark.parametrize(
    ("parameters", "output", "wanted"),
    [
        ({}, None, False),
        ({"binary_data_output": False}, None, False),
        ({"binary_data_output": True}, None, True),
        ({"binary_data_output": True}, {}, True),
        ({"binary_data_output": True}, {"binary_data": False}, False),
        ({"binary_data_output": False}, {"binary_data": True}, True),
        ({}, {"binary_data": True}, True),
        ({}, {"binary_data": False}, False),
        ({}, {}, False),
    ],
)
def test_parameters_of_an_output_override_those_of_the_request(
    parameters: Json, output: Json | None, wanted: bool, client: httpx.Client
) -> None:
    body: Json = {"parameters": parameters}
    if output is not None:
        body["outputs"] = [{"name": "y", "parameters": output}]
    response = curve(client, **body)
    assert (LENGTH in response.headers) is wanted
    np.testing.assert_array_equal(read(response)["y"], read(curve(client))["y"])


def test_a_raw_request_is_one_row_and_gets_a_raw_response(client: httpx.Client) -> None:
    for model, name, rows in (
        (CURVE, "x", X[:1]),
        (POINTS, "point", np.array([[0.5, 1]], np.float32)),
        (IMAGES, "image", ONE_IMAGE),
    ):
        path = f"/v2/models/{model}/infer"
        response = client.post(path, content=rows.tobytes(), headers={LENGTH: "0"})
        assert LENGTH in response.headers
        expected = infer(client, {"inputs": [tensor(name, rows)]}, model=model)
        for output, array in read(response).items():
            np.testing.assert_array_equal(array, read(expected)[output])
        for content in (b"", rows.tobytes()[:-1], rows.tobytes() + b"\0", 2 * rows.tobytes()):
            assert_refused(client.post(path, content=content, headers={LENGTH: "0"}))


def test_an_invalid_header_length_is_a_400(client: httpx.Client) -> None:
    content = json.dumps({"inputs": [binary("x", X)]}).encode() + X.tobytes()
    path = f"/v2/models/{CURVE}/infer"
    right = len(content) - X.nbytes
    wrong = ("-1", "99999999999", "9" * 30, "", "x", "1.5", "0x10", f"+{right}", "1e2", "\u0661")
    for length in (*wrong, str(len(content) + 1)):
        headers = [(LENGTH.encode(), length.encode())]
        assert_refused(client.post(path, content=content, headers=headers), 400, LENGTH)
    for length in (len(content), right + 1, right - 1, 1):
        assert_refused(client.post(path, content=content, headers={LENGTH: str(length)}))
    assert_refused(client.post(path, content=content))
    assert client.post(path, content=content, headers={LENGTH: str(right)}).status_code == 200


def test_a_header_length_of_the_whole_body_is_plain_json(client: httpx.Client) -> None:
    content = json.dumps({"inputs": [tensor("x", X)]}).encode()
    headers = {LENGTH: str(len(content))}
    response = client.post(f"/v2/models/{CURVE}/infer", content=content, headers=headers)
    assert response.json() == curve(client).json()


def test_wrong_numbers_of_bytes_are_a_400(client: httpx.Client) -> None:
    tail = X.tobytes()
    right = {"inputs": [binary("x", X)]}
    assert infer(client, right, tail).status_code == 200
    for wrong in (tail + b"\0", tail + tail, tail[:-1], tail[:4]):
        assert_refused(infer(client, right, wrong))
    for size in (0, 11, 13, 2**70, -12, 12.0, "12", True, [12]):
        lying = binary("x", X, parameters={"binary_data_size": size})
        assert_refused(infer(client, {"inputs": [lying]}, tail), 400, "binary_data_size")
    both = tensor("x", X, parameters={"binary_data_size": 12})
    assert_refused(infer(client, {"inputs": [both]}, tail))
    assert_refused(infer(client, {"inputs": [tensor("x", X)]}, tail))


def test_numbers_that_json_lacks_are_only_sent_as_binary(client: httpx.Client) -> None:
    rows = np.array([[3e38, -3e38]], np.float32)
    body: Json = {"inputs": [tensor("point", rows)]}
    assert_refused(infer(client, body, model=POINTS), 400, "binary")
    body["parameters"] = {"binary_data_output": True}
    assert not np.isfinite(read(infer(client, body, model=POINTS))["probabilities"]).all()


# Classes.


THREE_IMAGES = np.stack([np.roll(ONE_IMAGE[0], shift) for shift in (0, 100, 300)])


@pytest.mark.parametrize("as_binary", [False, True])
@pytest.mark.parametrize("k", [1, 3, 10, 11, 10**12])
@pytest.mark.parametrize(
    ("model", "sent"), [(IMAGES, tensor("image", THREE_IMAGES)), (CURVE, tensor("x", X))]
)
def test_the_most_probable_classes_have_value_index_and_label(
    model: str,
    sent: Json,
    k: int,
    as_binary: bool,
    client: httpx.Client,
    repository: ModelRepository,
) -> None:
    (spec,) = repository.get(model).card.outputs
    expected = read(infer(client, {"inputs": [sent]}, model=model))[spec.name]
    output = {"name": spec.name, "parameters": {"classification": k, "binary_data": as_binary}}
    response = infer(client, {"inputs": [sent], "outputs": [output]}, model=model)
    assert (LENGTH in response.headers) is as_binary
    classes = read(response)[spec.name]
    shown = min(k, spec.shape[1])
    assert classes.shape == (3, shown)
    for row, values in zip(classes, expected, strict=True):
        for text, class_index in zip(row, np.argsort(-values, kind="stable")[:shown], strict=True):
            value, index, *label = text.split(":")
            assert float(value) == pytest.approx(values[class_index], abs=1e-5)
            assert values[int(index)] == values[class_index]
            assert label == ([] if spec.labels is None else [spec.labels[int(index)]])
