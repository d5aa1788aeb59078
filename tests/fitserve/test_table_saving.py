"""Networks for rows of a table: the columns are declared, and proved with rows in their terms."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from table_networks import COLUMNS, ROWS, Flights, expected, save_flights

import fitserve
from models.kinds.table_rows import values_of_rows
from models.kinds.table_values import table_inputs
from models.package.card import ModelCard
from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime


def answers(package: ModelPackage, rows: list[dict[str, Any]], runtime: Any = "onnx") -> Any:
    """Return the outputs of rows, as the service makes and computes them."""
    card = package.card
    assert card.table is not None
    inputs = table_inputs(card.table, values_of_rows(card.table, rows), card.inputs)
    return open_runtime(package, runtime)(inputs)


def transform(rows: Any) -> dict[str, Any]:
    """Return what the columns of `flights` become, written in another way."""
    frame = pd.DataFrame(rows)
    days = [date.fromisoformat(day) for day in frame["day"]]
    carrier = [3 if pd.isna(one) else {"AA": 0, "UA": 1}.get(one, 2) for one in frame["carrier"]]
    origin = frame["origin"].map({"EWR": 0, "JFK": 1, "LGA": 2})
    numbers = frame[["distance", "dep_time", "late"]].astype(np.float32)
    parts = [[day.month, day.weekday()] for day in days]
    return {
        "codes": np.stack([carrier, origin], axis=1).astype(np.int64),
        "numbers": np.concatenate([numbers, parts], axis=1).astype(np.float32),
    }


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    folder = tmp_path_factory.mktemp("flights")
    save_flights(folder)
    return ModelRepository(folder).get("flights")


@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
def test_rows_are_answered_as_by_the_network(runtime: Any, flights: ModelPackage) -> None:
    if runtime not in flights.card.runtimes:
        pytest.fail(" ".join(flights.card.limits))
    (found,) = answers(flights, ROWS, runtime).values()
    assert found.ravel() == pytest.approx([expected(row) for row in ROWS], rel=1e-6)


def test_the_example_is_of_whole_rows_in_the_terms_of_callers(flights: ModelPackage) -> None:
    card = flights.card
    assert card.table is not None
    assert card.table.example == (ROWS[0], ROWS[2])
    assert card.batching == "rows"
    assert card.example.outputs["output"].data == pytest.approx(
        [expected(ROWS[0]), expected(ROWS[2])]
    )


def test_a_data_frame_with_dates_of_pandas_and_a_transform_of_ones_own(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS).assign(day=lambda rows: pd.to_datetime(rows["day"]))

    def own(rows: pd.DataFrame) -> dict[str, Any]:
        return transform(rows.assign(day=rows["day"].dt.strftime("%Y-%m-%d")))

    fitserve.save("flights", Flights(), frame, table=COLUMNS, transform=own, repository=tmp_path)
    card: ModelCard = ModelRepository(tmp_path).get("flights").card
    assert card.table is not None
    assert card.table.example[0] == ROWS[0]


def test_a_transform_that_makes_something_else_is_refused(tmp_path: Path) -> None:
    def own(rows: Any) -> dict[str, Any]:
        made = transform(rows)
        made["numbers"][3, 4] += 1
        return made

    with pytest.raises(
        fitserve.SaveError, match=r"'day' in row 4 of the sample becomes 6\.0 by the"
    ):
        fitserve.save("flights", Flights(), ROWS, table=COLUMNS, transform=own, repository=tmp_path)


def test_a_pipeline_of_scikit_learn_takes_texts_and_missing_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"carrier": random.choice(["UA", "AA", "DL"], 60), "distance": random.uniform(1, 9, 60)}
    )
    frame.loc[::7, "distance"] = np.nan
    target = np.where(frame["distance"].fillna(5) + (frame["carrier"] == "UA") > 5, "late", "not")
    network = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
            (make_pipeline(SimpleImputer(), StandardScaler()), ["distance"]),
        ),
        LogisticRegression(),
    ).fit(frame, target)
    columns = [
        {
            "name": "carrier", "type": "category", "input": "carrier", "texts": True,
            "categories": ["AA", "DL", "UA"], "unknown": "keep",
        },
        {"name": "distance", "type": "number", "input": "distance", "missing": "nan"},
    ]  # fmt: skip
    fitserve.save("late", network, frame, table=columns, repository=tmp_path)
    package = ModelRepository(tmp_path).get("late")
    rows = [
        {"carrier": "UA", "distance": None},
        {"carrier": "B6", "distance": 3},
        {"carrier": "AA", "distance": 8.5},
    ]
    found = answers(package, rows)
    given = pd.DataFrame(rows)
    assert found["label"].tolist() == network.predict(given).tolist()
    assert found["probabilities"] == pytest.approx(network.predict_proba(given), rel=1e-5)
    proof = package.card.parity[0]
    assert proof.samples == 62  # the rows, one with a missing and one with an unknown value
    assert proof.largest_relative_difference < 1e-5


def test_a_network_of_one_input_needs_no_names_of_inputs(tmp_path: Path) -> None:
    from torch import nn

    columns = [{"name": name, "type": "number"} for name in ("a", "b")]
    rows = {"b": [1.0, 2, 3], "a": [4, 5, 6]}
    network = nn.Linear(2, 1)
    fitserve.save("line", network, rows, table=columns, repository=tmp_path)
    card = ModelRepository(tmp_path).get("line").card
    assert card.example.inputs[card.inputs[0].name].data == (4, 1, 5, 2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sample": None}, "the sample is a NoneType: give rows as a data frame"),
        ({"sample": ROWS[:1]}, "two rows or more"),
        ({"sample": [{"a": 1}, {"b": 1}]}, "different columns"),
        ({"sample": {"a": [1, 2], "b": [1]}}, "as many of each column"),
        ({"table": COLUMNS[:-1]}, "The column 'day' is unknown"),
        ({"table": [{**COLUMNS[0], "input": ""}, *COLUMNS[1:]]}, "'carrier' names no input"),
        ({"table": [{**COLUMNS[0], "kind": 1}, *COLUMNS[1:]]}, "columns.0.category.kind"),
        ({"sample": [{**row, "distance": -1} for row in ROWS]}, "-1 of column 'distance' in row 1"),
        ({"sample": [{**row, "distance": 1j} for row in ROWS]}, "has no form in JSON"),
        ({"transform": lambda rows: rows["none"]}, "the transform fails on the sample"),
    ],
)
def test_what_is_no_table_gets_advice(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    given = {"sample": ROWS, "table": COLUMNS, "repository": tmp_path, **changed}
    with pytest.raises(fitserve.ExportError) as raised:
        fitserve.save("flights", Flights(), **given)
    assert said in str(raised.value)


def test_a_network_made_by_code_is_added_with_rows_of_csv(tmp_path: Path, root: Path) -> None:
    (tmp_path / "columns.json").write_text(json.dumps(COLUMNS))
    pd.DataFrame(ROWS).to_csv(tmp_path / "rows.csv", index=False)
    source = f"{root / 'tests/support/table_networks.py'}:Flights"
    command = [sys.executable, "-m", "fitserve", "add", "flights", source]
    command += ["--table", "columns.json", "--sample", "rows.csv", "--repository", "repository"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "column  carrier  category, any, known are 'AA', 'UA', or null" in result.stdout
    package = ModelRepository(tmp_path / "repository").get("flights")
    (found,) = answers(package, ROWS).values()
    assert found.ravel() == pytest.approx([expected(row) for row in ROWS], rel=1e-6)
