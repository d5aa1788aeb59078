"""The page of a package shows the content of its card in readable form."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_packages import Kit, property_test

from models.package.card import Evaluation, ModelCard
from models.package.model_package import ModelPackage
from models.package.readme import headline, render_page


@pytest.fixture
def page(blot: ModelPackage) -> str:
    """The page of the package whose card has all fields."""
    return blot.load("README.md").decode()


def rows(page: str) -> list[list[str]]:
    """Return the cells of every table row. A pipe after a backslash is part of a cell."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in page.splitlines()
        if line.startswith("|")
    ]


@pytest.mark.parametrize(
    "row",
    [
        ["in", "`image`", "UINT8", "[-1, 4, 4]", "0 to 255", "grey pixels"],
        ["out", "`probabilities`", "FP32", "[-1, 3]", "0 to 1", "of each class"],
        ["data", "samples", "accuracy", "negative log likelihood"],
        ["blots, test", "12,345", "0.9877", "0.000321"],
        ["blots, validation", "678", "0.9712", ""],
        ["tutorial", "accuracy", "0, 1", "0.9623", "0.0011", "0.9612, 0.9634"],
        ["dot", "0.9111", "0.8222", "0.8644", "4111"],
        ["bar", "0.7333", "0.6444", "0.6860", "4222"],
        ["cross", "0.5555", "0.4666", "0.5072", "4012"],
        ["onnx", "2,000", "1, 7, 64", "3.4e-07", "5.6e-07", "100.00%"],
        ["recipe", "`blot`, default setting"],
        ["network", "Linear(16, 3) (51,234 parameters)"],
        ["data", "drawn blots"],
        ["split", "54,321 train, 678 validation, 12,345 test"],
        ["data SHA-256", f"`{'ab' * 32}`"],
        ["device", "cpu, 2 threads"],
        ["time", "99 s for 17 epochs; weights of epoch 13"],
        ["seed", "4"],
        ["libraries", "python 3.11.7, torch 2.13.0"],
        ["`epochs`", "17"],
        ["`lr`", "0.0025"],
        ["`optimizer`", "adamw"],
        ["`hidden`", "512, 256"],
        ["`clip_norm`", "none"],
        ["`mixed_precision`", "False"],
    ],
)
def test_every_number_of_the_card_is_in_its_row(row: list[str], page: str) -> None:
    assert rows(page).count(row) == 1


def test_the_page_has_size_and_digest_of_every_other_file(blot: ModelPackage, page: str) -> None:
    files = {name: file for name, file in blot.card.files.items() if name != "README.md"}
    assert len(files) == 3
    contents = {"model.onnx": "operators of ONNX", "model.pt": "code, which runs when it is loaded"}
    for name, file in files.items():
        holds = contents.get(name, "")
        assert [name, holds, f"{file.bytes:,}", f"`{file.sha256}`"] in rows(page)


def test_the_page_shows_the_plots_of_the_package(blot: ModelPackage, page: str) -> None:
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", page)
    assert pictures == [("loss curves", "report/loss-curves.png")]
    assert (blot.path / pictures[0][1]).is_file()


def test_the_page_has_name_version_summary_use_and_limits(page: str) -> None:
    assert page.startswith("# blot 1\n\nIt tells blots apart.\n\n## ")
    assert "\n\nTests.\n\n- It knows three blots.\n- It was hardly fitted.\n\n" in page


def test_the_page_of_a_minimal_card_has_no_empty_sections(bend: ModelPackage) -> None:
    page = bend.load("README.md").decode()
    assert re.findall("^## (.*)", page, re.MULTILINE) == [
        "What goes in and comes out", "How good it is", "What it is for", "Files",
    ]  # fmt: skip
    assert "\n\n\n" not in page
    assert ["in", "`x`", "FP32", "[-1, 1]", "", "where to evaluate the curve"] in rows(page)


@pytest.mark.parametrize("name", ["blot", "bend"])
def test_the_page_has_no_python_values(name: str, kits: Mapping[str, Kit]) -> None:
    page = render_page(kits[name].card)
    for trace in ("None", "Record(", "Spec(", "object at", "dtype", "{", "}", "('", "','"):
        assert trace not in page


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (None, None, ""),
        (0, None, "from 0"),
        (None, 1.5, "up to 1.5"),
        (-20, 20, "-20 to 20"),
        (0, 0, "0 to 0"),
    ],
)
def test_a_range_may_be_open_on_one_side(
    low: float | None, high: float | None, said: str, kits: Mapping[str, Kit]
) -> None:
    card = kits["bend"].card
    spec = replace(card.inputs[0], minimum=low, maximum=high)
    page = render_page(card.model_copy(update={"inputs": (spec,)}))
    assert ["in", "`x`", "FP32", "[-1, 1]", said, spec.meaning] in rows(page)


def test_any_text_keeps_the_cells_of_a_table_row(
    kits: Mapping[str, Kit],
) -> None:
    card = kits["blot"].card
    assert card.fit is not None
    plain = [len(row) for row in rows(render_page(card))]

    @property_test
    @given(st.text("ab |\n\t\r\x0b\u2028`*", max_size=12))
    def check(text: str) -> None:
        settings = card.fit.hyperparameters | {"optimizer": text}
        fit = card.fit.model_copy(update={"device": text, "hyperparameters": settings})
        inputs = (replace(card.inputs[0], meaning=text),)
        page = render_page(card.model_copy(update={"inputs": inputs, "fit": fit}))
        assert [len(row) for row in rows(page)] == plain

    check()


def _evaluated(kit: Kit, samples: int = 10_000, **metrics: float) -> ModelCard:
    test = Evaluation(data="d", split="test", samples=samples, metrics=metrics)
    worse = Evaluation(data="d", split="validation", samples=1, metrics={"accuracy": 0.1})
    return kit.card.model_copy(update={"evaluations": (test, worse)})


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"accuracy": 0.997, "mse": 3.0}, "99.70% of 10,000 test samples right"),
        ({"accuracy": 1.0}, "100.00% of 10,000 test samples right"),
        ({"mae": 0.5, "mse": 1.12218}, "mean squared error 1.1222 on 10,000 test samples"),
        ({"mse": 0.0000123}, "mean squared error 1.23e-05 on 10,000 test samples"),
        ({"median_error": 0.25}, "median error 0.2500 on 10,000 test samples"),
        ({}, "not evaluated"),
    ],
)
def test_the_headline_is_the_main_metric_of_the_first_evaluation(
    metrics: dict[str, Any], said: str, kits: Mapping[str, Kit]
) -> None:
    assert headline(_evaluated(kits["blot"], **metrics)) == said


def test_the_headline_of_a_card_without_an_evaluation_says_so(kits: Mapping[str, Kit]) -> None:
    card = kits["bend"].card.model_copy(update={"evaluations": ()})
    assert headline(card) == "not evaluated"
    assert "How good it is" not in render_page(card)
