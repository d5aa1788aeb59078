"""Predictions in rows, in every dialect, from a real server."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from live_server import Server

from models.package.repository import ModelRepository

POINTS = [[0.5, 0.25], [2.0, -0.5], [-1.0, 0.5]]
X = [0.0, 5.0, 10.5]


def infer(client: httpx.Client, model: str, name: str, rows: Any) -> list[Any]:
    """Return the rows of a model's output by the V2 protocol."""
    array = np.float32(rows).reshape(len(rows), -1)
    tensor = {
        "name": name,
        "shape": array.shape,
        "datatype": "FP32",
        "data": array.ravel().tolist(),
    }
    response = client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})
    (output,) = response.json()["outputs"]
    found: list[Any] = np.reshape(output["data"], output["shape"]).tolist()
    return found


def test_predict_answers_in_the_models_own_terms(client: httpx.Client) -> None:
    response = client.post("/models/moons-tanh/predict", json={"instances": POINTS})
    assert response.status_code == 200, response.text
    content = response.json()
    assert (content["model"], content["version"]) == ("moons-tanh", "1")
    labels = client.get("/models/moons-tanh").json()["outputs"][0]["labels"]
    for row, scores in zip(
        content["predictions"], infer(client, "moons-tanh", "point", POINTS), strict=True
    ):
        assert row["label"] == labels[int(np.argmax(scores))]
        assert row["score"] == pytest.approx(max(scores), rel=1e-5)
        assert row["scores"] == pytest.approx(dict(zip(labels, scores, strict=True)), rel=1e-5)


@pytest.mark.parametrize("rows", [X, [[x] for x in X], [{"x": x} for x in X]])
def test_a_row_may_be_a_number_a_list_or_an_object(rows: Any, client: httpx.Client) -> None:
    response = client.post("/models/curve-tanh/predict", json={"instances": rows})
    expected = [row[0] for row in infer(client, "curve-tanh", "x", X)]
    assert response.json()["predictions"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("path", "headers", "body", "field"),
    [
        ("/v1/models/curve-tanh:predict", {}, {"instances": [[x] for x in X]}, "predictions"),
        (
            "/v1/models/curve-tanh/versions/1:predict",
            {},
            {"signature_name": "serving_default", "instances": [{"x": [x]} for x in X]},
            "predictions",
        ),
        ("/v1/models/curve-tanh:predict", {}, {"inputs": {"x": [[x] for x in X]}}, "outputs"),
        ("/v1/models/curve-tanh:predict", {}, {"inputs": [[x] for x in X]}, "outputs"),
        ("/invocations", {"X-Model": "curve-tanh"}, {"instances": X}, "predictions"),
        ("/invocations", {"X-Model": "curve-tanh"}, {"inputs": {"x": X}}, "predictions"),
        (
            "/invocations",
            {"X-Model": "curve-tanh"},
            {"dataframe_split": {"columns": ["x"], "data": [[x] for x in X]}},
            "predictions",
        ),
        (
            "/invocations",
            {"X-Model": "curve-tanh"},
            {"dataframe_records": [{"x": x} for x in X]},
            "predictions",
        ),
        ("/invocations", {"X-Model": "curve-tanh"}, [[x] for x in X], "predictions"),
    ],
)  # fmt: skip
def test_each_dialect_gives_the_outputs_of_the_network(
    path: str, headers: dict[str, str], body: Any, field: str, client: httpx.Client
) -> None:
    response = client.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    assert list(response.json()) == [field]
    expected = infer(client, "curve-tanh", "x", X)
    np.testing.assert_allclose(response.json()[field], expected, rtol=1e-5)


@pytest.mark.parametrize("names", ["", "x1,x2\n"])
def test_csv_is_answered_as_csv_if_that_is_asked_for(names: str, client: httpx.Client) -> None:
    lines = names + "\n".join(f"{a},{b}" for a, b in POINTS)
    headers = {"X-Model": "moons-tanh", "Content-Type": "text/csv; charset=utf-8"}
    expected = infer(client, "moons-tanh", "point", POINTS)
    answered = client.post("/invocations", content=lines, headers=headers)
    np.testing.assert_allclose(answered.json()["predictions"], expected, rtol=1e-5)
    answered = client.post("/invocations", content=lines, headers=headers | {"Accept": "text/csv"})
    assert answered.headers["content-type"] == "text/csv; charset=utf-8"
    rows = [[float(value) for value in line.split(",")] for line in answered.text.splitlines()]
    np.testing.assert_allclose(rows, expected, rtol=1e-5)


def test_a_table_has_its_columns_in_any_case(client: httpx.Client) -> None:
    split = {"columns": ["x1", "x2"], "index": [0, 1, 2], "data": POINTS}
    response = client.post(
        "/invocations", json={"dataframe_split": split}, headers={"X-Model": "moons-tanh"}
    )
    expected = infer(client, "moons-tanh", "point", POINTS)
    np.testing.assert_allclose(response.json()["predictions"], expected, rtol=1e-5)


def test_a_large_request_and_a_long_response_are_the_same_rows(client: httpx.Client) -> None:
    rows = np.random.default_rng(0).uniform(0, 16, 12_000).round(3).tolist()
    for count in (3, 12_000):
        response = client.post("/models/curve-tanh/predict", json={"instances": rows[:count]})
        assert response.status_code == 200, response.text
        expected = [row[0] for row in infer(client, "curve-tanh", "x", rows[:count])]
        np.testing.assert_allclose(response.json()["predictions"], expected, rtol=1e-4, atol=1e-5)


def test_v1_says_which_models_serve(client: httpx.Client, repository: ModelRepository) -> None:
    assert client.get("/v1/models").json() == {"models": repository.names()}
    found = client.get("/v1/models/curve-tanh").json()
    assert found["ready"] is True
    assert found["model_version_status"][0]["state"] == "AVAILABLE"
    assert client.get("/ping").json() == {"status": "Healthy"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/models/lenet/predict", {"instances": [1]}, 404, "unknown model: 'lenet'"),
        ("POST", "/models/curve-tanh/predict", {"rows": [1]}, 400, "with 'instances'."),
        ("POST", "/models/curve-tanh/predict", {"instances": [[1, 2]]}, 400, "[1, 2]; the model"),
        ("GET", "/models/curve-tanh/predict", None, 405, "GET is not allowed here; POST is."),
        ("POST", "/v1/models/curve-tanh:predict", {}, 400, "with 'instances' or 'inputs'."),
        ("POST", "/v1/models/curve-tanh/versions/9:predict", {"instances": [1]}, 404, "version 9"),
        ("POST", "/v1/models/curve-tanh:explain", {"instances": [1]}, 404, "There is nothing at"),
        ("POST", "/v1/models", None, 405, "GET and HEAD are."),
        ("POST", "/invocations", {"instances": [1]}, 400, "There are several models: name one"),
        ("GET", "/v1/nowhere", None, 404, "There is nothing at '/v1/nowhere'"),
    ],
)
def test_what_cannot_be_answered_gets_a_sentence(
    method: str, path: str, body: Any, status: int, message: str, client: httpx.Client
) -> None:
    response = client.request(method, path, json=body)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("content", "media_type", "status", "message"),
    [
        ("[", "application/json", 400, "The body is not JSON"),
        ("a,b\n1,c", "text/csv", 400, "no number"),
        ("1,2,3", "text/csv", 400, "the model takes [-1, 1]"),
        ("1", "application/x-parquet", 415, "send JSON"),
        ('{"instances": [1], "inputs": [1]}', "", 400, "with one of dataframe_split"),
        ('{"dataframe_split": {"columns": ["x"]}}', "", 400, "'columns' and 'data'"),
        ('{"dataframe_records": [{"x": 1}, {"y": 1}]}', "", 400, "different columns"),
    ],
)
def test_a_body_that_is_no_table_gets_a_sentence(
    content: str, media_type: str, status: int, message: str, client: httpx.Client
) -> None:
    headers = {"X-Model": "curve-tanh"} | ({"Content-Type": media_type} if media_type else {})
    response = client.post("/invocations", content=content, headers=headers)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]


def test_the_description_has_a_path_and_an_example_for_each_model(
    server: Server, client: httpx.Client
) -> None:
    paths = client.get("/docs.json").json()["paths"]
    operation = paths["/models/moons-tanh/predict"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    response = client.post("/models/moons-tanh/predict", content=json.dumps(schema["example"]))
    assert response.status_code == 200, response.text
    assert len(response.json()["predictions"]) == len(schema["example"]["instances"])
