"""Rows of a table at a real server, in each dialect: by name, with missing values and dates."""

import csv
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from live_server import Server, serving, temporary_home
from table_networks import ROWS, expected, save_flights

PREDICT, V1, INVOCATIONS = "/models/flights/predict", "/v1/models/flights:predict", "/invocations"
NAMES = list(ROWS[0])


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tables")
    save_flights(folder)
    settings = {"FITSERVE_MODEL_REPOSITORY": str(folder), "FITSERVE_DEVICE": "cpu"}
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def numbers(response: httpx.Response) -> list[float]:
    assert response.status_code == 200, response.text
    return list(np.ravel(next(reversed(response.json().values()))))


def as_csv(rows: list[dict[str, Any]], names: list[str], *, head: bool = True) -> str:
    text = io.StringIO()
    lines = csv.writer(text)
    for line in [names] * head + [[row[name] for name in names] for row in rows]:
        lines.writerow(line)
    return text.getvalue()


def test_the_rows_of_every_dialect_are_answered(client: httpx.Client) -> None:
    split = {"columns": NAMES, "data": [[row[name] for name in NAMES] for row in ROWS]}
    columns = {name: [row[name] for row in ROWS] for name in NAMES}
    bodies: list[tuple[str, Any]] = [
        (PREDICT, {"instances": ROWS}),
        (V1, {"instances": ROWS}),
        (V1, {"inputs": columns}),
        (INVOCATIONS, {"instances": ROWS}),
        (INVOCATIONS, {"inputs": columns}),
        (INVOCATIONS, {"dataframe_records": ROWS}),
        (INVOCATIONS, {"dataframe_split": split}),
    ]
    for path, body in bodies:
        answers = numbers(client.post(path, json=body))
        assert answers == pytest.approx([expected(row) for row in ROWS], rel=1e-6), (path, body)


@pytest.mark.parametrize("head", [True, False])
def test_csv_has_missing_values_as_empty_fields(head: bool, client: httpx.Client) -> None:
    table = client.get("/models/flights").json()["table"]
    names = NAMES if head else [column["name"] for column in table["columns"]]
    content = as_csv(ROWS, names, head=head)
    response = client.post(INVOCATIONS, content=content, headers={"content-type": "text/csv"})
    assert numbers(response) == pytest.approx([expected(row) for row in ROWS], rel=1e-6)


def test_eight_callers_get_their_own_answers(client: httpx.Client) -> None:
    def ask(caller: int) -> None:
        for turn in range(20):
            row = {
                **ROWS[turn % len(ROWS)],
                "distance": 700.5 * caller + turn,
                "dep_time": [None, 5, 2359][turn % 3],
                "carrier": ["AA", "UA", "ZZ", None][caller % 4],
            }
            names = NAMES[turn % 6 :] + NAMES[: turn % 6]
            body = {"instances": [{name: row[name] for name in names}]}
            assert numbers(client.post(PREDICT, json=body)) == pytest.approx(
                [expected(row)], rel=1e-6
            )

    with ThreadPoolExecutor(8) as callers:
        list(callers.map(ask, range(8)))


def test_a_large_body_is_answered_like_a_small_one(client: httpx.Client) -> None:
    answers = numbers(client.post(PREDICT, json={"instances": ROWS * 500}))
    assert answers == pytest.approx([expected(row) for row in ROWS] * 500, rel=1e-6)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"distance": "far"}, "'far' of column 'distance' in row 2 is no number"),
        ({"distance": 6001}, "it must be from 0 to 6000 miles"),
        ({"distance": None}, "column 'distance' in row 2 is missing"),
        ({"dep_time": 5.5}, "5.5 of column 'dep_time' in row 2 is no whole number"),
        ({"origin": "jfk"}, "none of its categories, 'EWR', 'JFK', 'LGA'"),
        ({"day": "2013-02-30"}, "is no date of the calendar"),
        ({"day": "1/2/2013"}, "is no date such as 2013-05-01"),
        ({"late": 2}, "neither true nor false"),
        ({"distances": 1}, "The column 'distances' of row 2 is unknown; the nearest is 'distance'"),
    ],
)
def test_a_wrong_value_gets_one_sentence(
    changed: dict[str, Any], said: str, client: httpx.Client
) -> None:
    response = client.post(PREDICT, json={"instances": [ROWS[0], {**ROWS[1], **changed}]})
    assert response.status_code == 400
    assert said in response.json()["error"]


def test_an_absent_column_is_named(client: httpx.Client) -> None:
    row = {name: value for name, value in ROWS[0].items() if name != "dep_time"}
    response = client.post(V1, json={"instances": [row]})
    assert response.status_code == 400
    assert "'dep_time' of row 1 is absent; send null" in response.json()["error"]


@pytest.mark.parametrize("rows", [[], [[1, 2]], ["AA"], [None], {"a": 1}, [{}], 3])
def test_what_is_no_row_is_refused(rows: Any, client: httpx.Client) -> None:
    for path, body in (
        (PREDICT, {"instances": rows}),
        (INVOCATIONS, {"dataframe_records": rows}),
        (V1, {"inputs": {"carrier": rows}}),
    ):
        response = client.post(path, json=body)
        assert response.status_code == 400, response.text
        assert response.json()["error"].endswith(".")


def test_the_tensors_are_those_of_v2(client: httpx.Client) -> None:
    inputs = [
        {"name": "codes", "datatype": "INT64", "shape": [1, 2], "data": [1, 1]},
        {"name": "numbers", "datatype": "FP32", "shape": [1, 5], "data": [1400, 517, 0, 1, 1]},
    ]
    response = client.post("/v2/models/flights/infer", json={"inputs": inputs})
    assert response.json()["outputs"][0]["data"] == pytest.approx([expected(ROWS[0])], rel=1e-6)


def test_the_columns_are_described(client: httpx.Client) -> None:
    card = client.get("/models/flights").json()
    assert [column["name"] for column in card["table"]["columns"]][:2] == ["carrier", "origin"]
    parameters = client.get("/v2/models/flights").json()["parameters"]
    assert parameters["column.distance"] == "number, from 0 to 6000 miles"
    operation = client.get("/docs.json").json()["paths"][PREDICT]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    properties = schema["properties"]["instances"]["items"]["properties"]
    assert properties["origin"]["enum"] == ["EWR", "JFK", "LGA"]
    assert properties["carrier"]["nullable"]
    assert "enum" not in properties["carrier"]
    assert properties["day"]["format"] == "date"
    answer = client.post(PREDICT, json=schema["example"]).json()
    shown = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert answer["predictions"] == pytest.approx(shown["predictions"], rel=1e-5)
    assert json.dumps(schema["example"]).count("carrier") == 2
