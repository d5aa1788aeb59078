"""`add --table`: an ONNX file becomes a package whose callers send rows with named columns."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from models.__main__ import main
from models.package.card import ModelCard
from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository

pytestmark = pytest.mark.usefixtures("one_trial_of_each_graph")
Add = Callable[..., tuple[int, str]]

COLUMNS: list[dict[str, Any]] = [
    {"name": "size", "type": "category", "input": "codes", "categories": ["S", "M"], "unknown": 2},
    {"name": "weight", "type": "number", "input": "x", "missing": "nan", "unit": "kg"},
    {"name": "sent", "type": "date", "input": "x", "parts": ["month"]},
]
CSV = "sent,weight,size\n2020-01-31,1.5,S\n2020-02-01,,M\n2020-12-24,2.5,XL\n2021-07-01,0,S\n"


def price(*, clean: bool = True, sizes: int = 3, rows: str | int = "batch") -> bytes:
    """Return a graph of a price: of the size (100, 200, 300), the weight and the month.

    Args:
        clean: whether a missing weight counts as 10; otherwise NaN is returned.
        sizes: the number of sizes in its table.
        rows: the size of the batch.
    """
    nodes = [
        helper.make_node("Gather", ["prices", "codes"], ["priced"]),
        helper.make_node("IsNaN", ["x"], ["lacks"]),
        helper.make_node("Where", ["lacks", "ten", "x"], ["known"]),
        helper.make_node("MatMul", ["known" if clean else "x", "weights"], ["summed"]),
        helper.make_node("Add", ["priced", "summed"], ["y"]),
    ]
    constants = {
        "prices": 100 * np.arange(1, sizes + 1, dtype=np.float32),
        "ten": np.float32(10),
        "weights": np.float32([[1], [1000]]),
    }
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "price",
            [
                helper.make_tensor_value_info("codes", T.INT64, (rows, 1)),
                helper.make_tensor_value_info("x", T.FLOAT, (rows, 2)),
            ],
            [helper.make_tensor_value_info("y", T.FLOAT, (rows, 1))],
            [numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def add(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Add:
    """A function that adds ONNX content with columns and rows; returns the code and the output."""

    def command(
        content: bytes, columns: Any = COLUMNS, rows: str | None = CSV, *options: str
    ) -> tuple[int, str]:
        file, table, sample = (tmp_path / name for name in ("a.onnx", "columns.json", "rows.csv"))
        file.write_bytes(content)
        table.write_text(columns if isinstance(columns, str) else json.dumps(columns))
        options = ("--table", str(table), *options)
        if rows is not None:
            sample.write_text(rows)
            options = ("--sample", str(sample), *options)
        code = main(["add", "price", str(file), "--repository", str(root), *options])
        printed = capsys.readouterr()
        return code, printed.err if code else printed.out

    return command


def card(root: Path) -> ModelCard:
    return ModelRepository(root).get("price").card


def test_the_package_has_the_columns_and_an_example_in_their_terms(add: Add, root: Path) -> None:
    code, printed = add(price())
    assert code == 0, printed
    assert "column  size  category, any, known are 'S', 'M'" in printed
    added = card(root)
    assert added.batching == "rows"
    assert added.table is not None
    assert added.table.example == (
        {"size": "S", "weight": 1.5, "sent": "2020-01-31"},
        {"size": "XL", "weight": 2.5, "sent": "2020-12-24"},
    )
    assert added.example.outputs["y"].data == (1101.5, 12302.5)
    assert (added.inputs[0].minimum, added.inputs[0].maximum) == (0, 2)
    assert "rows of the table" in added.parity[0].tolerance
    assert (
        added.parity[0].samples == 6
    )  # the rows, one with a missing and one with an unknown value


def test_check_and_show_tell_what_a_caller_sends(
    add: Add, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(price())
    assert main(["check", "price", "--repository", str(root)]) == 0
    printed = capsys.readouterr().out
    assert '-d \'{"instances": [{"size": "S", "weight": 1.5, "sent": "2020-01-31"}]}\'' in printed
    assert "  weight: number, kg, or null" in printed
    assert main(["show", "price", "--repository", str(root)]) == 0
    page = capsys.readouterr().out
    assert "| `weight` | number, kg, or null |  | `x`, as it is; missing: nan |" in page
    assert "| `sent` | date |  | `x`, month |" in page


def test_without_rows_the_checks_use_random_ones(add: Add, root: Path) -> None:
    code, printed = add(price(), COLUMNS, None)
    assert code == 0, printed
    assert any("random numbers" in limit for limit in card(root).limits)


def test_rows_may_be_json(add: Add, root: Path, tmp_path: Path) -> None:
    rows = [{"sent": "2020-01-31", "weight": None, "size": "M"}] * 2
    rows += [{"size": "S", "weight": 2, "sent": "2020-03-01"}] * 2
    sample = tmp_path / "rows.json"
    for content in (rows, {"instances": rows}):
        sample.write_text(json.dumps(content))
        code, printed = add(price(), COLUMNS, None, "--sample", str(sample))
        assert code == 0, printed
    assert card(root).example.outputs["y"].data == (3102, 3102)


def test_a_network_of_a_fixed_batch_takes_rows_too(add: Add, root: Path) -> None:
    code, printed = add(price(rows=2))
    assert code == 1  # three rows are whole, and two are computed at a time
    assert "give a multiple of 2 rows" in printed
    code, printed = add(price(rows=2), COLUMNS, CSV.replace(",,M", ",3,M"))
    assert code == 0, printed
    assert card(root).fixed_batch == 2


def test_a_column_without_an_input_is_of_the_only_input(add: Add, root: Path) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    wide = [helper.make_tensor_value_info(name, T.FLOAT, ("batch", 2)) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([relu], "relu", wide[:1], wide[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    columns = [{"name": name, "type": "number"} for name in ("a", "b")]
    code, printed = add(model.SerializeToString(), columns, "b,a\n1,2\n-3,4\n")
    assert code == 0, printed
    assert card(root).example.inputs["x"].data == (2, 1, 4, -3)


@pytest.mark.parametrize(
    ("graph", "columns", "rows", "said"),
    [
        ({"clean": False}, COLUMNS, CSV, 'or refuse them with "missing": null'),
        ({"sizes": 2}, COLUMNS, CSV, "it fails on the sample"),
        ({"sizes": 2}, COLUMNS, CSV.replace("XL", "M"), "it fails on a row of the table"),
        ({}, COLUMNS[:2], CSV, "the columns give x 1 places, and it is FP32 [-1, 2]"),
        ({}, [*COLUMNS, {**COLUMNS[1], "name": "z", "input": "z"}], CSV, "inputs are codes, x"),
        ({}, [{**COLUMNS[0], "type": "number"}, *COLUMNS[1:]], CSV, "of the columns, columns.0"),
        ({}, "[", CSV, "it is no JSON"),
        ({}, {"rows": []}, CSV, "of the columns, columns: Field required"),
        ({}, COLUMNS, CSV.replace("1.5", "light"), "The value 'light' of column 'weight'"),
        ({}, COLUMNS, CSV.replace("2020-02-01", "1 Feb"), "'1 Feb' of column 'sent' in row 2"),
        ({}, COLUMNS, CSV.replace("weight", "mass"), "The column 'mass' is unknown; the"),
        ({}, COLUMNS, CSV + "1\n", "Row 5 has another number of fields than the first line"),
        ({}, COLUMNS, "", "holds no rows"),
        ({}, COLUMNS, CSV.splitlines()[0], "holds no rows"),
        ({}, COLUMNS, "sent,weight,size\n2020-01-01,,S\n2020-01-01,,S\n", "give some rows without"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_advice(
    graph: dict[str, Any], columns: Any, rows: str, said: str, add: Add, root: Path
) -> None:
    code, printed = add(price(**graph), columns, rows)
    assert code == 1
    assert said in printed, printed
    assert not ModelRepository(root).names()


def test_given_answers_prove_the_columns(add: Add, tmp_path: Path) -> None:
    own = tmp_path / "own.npz"
    np.savez(own, y=np.array([[1101.5], [2210], [12302.5], [7100]]))
    options = (COLUMNS, CSV, "--answers", str(own))
    code, printed = add(price(), *options)
    assert code == 0, printed
    for changed in ({"parts": ["day"]}, {"parts": ["yearday"]}):
        code, printed = add(price(), [*COLUMNS[:2], {**COLUMNS[2], **changed}], *options[1:])
        assert code == 1
        assert "declare the columns as in training" in printed
    np.savez(own, y=np.array([[1101.5], [2210]]))
    code, printed = add(price(), *options)
    assert code == 1
    assert "2 answers y for 4 rows" in printed
    np.savez(own, z=np.zeros(4))
    code, printed = add(price(), *options)
    assert code == 1
    assert "the output z" in printed


def test_a_file_that_is_no_csv_is_refused(add: Add, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"size,weight\n\xff,1\n")
    code, printed = add(price(), COLUMNS, None, "--sample", str(tmp_path / "x.csv"))
    assert code == 1
    assert "it is no CSV in UTF-8" in printed


def test_arrays_are_no_rows_of_a_table(add: Add, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 2), np.float32))
    code, printed = add(price(), COLUMNS, None, "--sample", str(tmp_path / "rows.npz"))
    assert code == 1
    assert "give rows in its terms: a .csv or .json file" in printed


def test_a_card_whose_example_becomes_another_row_is_refused(add: Add, root: Path) -> None:
    add(price())
    content = json.loads(card(root).model_dump_json())
    content["table"]["example"][0]["weight"] = 1.6
    with pytest.raises(ValueError, match="the example of the table becomes another x"):
        ModelCard.model_validate(content)
    content["table"]["example"] = []
    with pytest.raises(ValueError, match="another codes than recorded"):
        ModelCard.model_validate(content)
    content["table"] = None
    assert ModelCard.model_validate(content).table is None


def test_the_package_is_verified_again(add: Add, root: Path) -> None:
    add(price())
    package = ModelRepository(root).get("price")
    assert isinstance(package, ModelPackage)
    package.verify()
