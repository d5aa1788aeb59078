"""Tests of the network for tables: missing values, periods, unknown codes, numbers far away."""

from dataclasses import replace

import pytest
import torch
from small_tables import shops

from training.datasets.column_types import columns_of
from training.datasets.table import FIRST, UNKNOWN, TableDataset
from training.datasets.table_data import TableTask, table_dataset
from training.hyperparameters import TableHyperparameters
from training.tables.network import Categories, Numbers, TableNetwork
from training.tables.recipe import hyperparameters_for

NAN = float("nan")


@pytest.fixture(scope="module")
def data() -> TableDataset:
    """Return the table of shops."""
    builders = columns_of([shops().drop(columns="grade")], {})
    columns = {name: builder.column() for name, builder in builders.items()}
    return table_dataset("shops", "shops", columns, TableTask(target="sales", split_by="day"))


@pytest.fixture
def network(data: TableDataset) -> TableNetwork:
    """Return an untrained network."""
    torch.manual_seed(0)
    return TableNetwork(hyperparameters_for(data), data).eval()


def test_answers_are_near_the_mean_of_the_target_before_any_training(
    network: TableNetwork, data: TableDataset
) -> None:
    answers = network(data.train.inputs).detach()
    targets = data.train.targets
    assert answers.shape == targets.shape
    assert abs(float(answers.mean() - targets.mean())) < float(targets.std())


def test_a_number_is_encoded_by_the_share_of_each_bin_below_it() -> None:
    values = torch.arange(101.0).unsqueeze(1)
    encode = Numbers(values, periods=[0], bins=4)
    shares = encode(torch.tensor([[-9.0], [0.0], [30.0], [100.0], [1e9]]))[:, 1:]
    assert shares[:, :4].tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [1, pytest.approx(0.2), 0, 0],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
    ]


def test_a_missing_number_is_the_mean_and_is_told_to_the_network() -> None:
    values = torch.tensor([[1.0], [NAN], [5.0]])
    encoded = Numbers(values, periods=[0], bins=2)(torch.tensor([[NAN], [3.0]]))
    assert torch.equal(encoded[0, :-1], encoded[1, :-1])
    assert encoded[:, -1].tolist() == [1, 0]


def test_december_is_next_to_january() -> None:
    months = torch.arange(1.0, 13.0).unsqueeze(1)
    points = Numbers(months, periods=[12], bins=4)(months)
    steps = (points - points.roll(1, dims=0)).norm(dim=1)
    assert points.shape == (12, 2)
    torch.testing.assert_close(steps, steps[:1].expand(12))


def test_a_constant_column_and_a_column_without_values_are_encoded_finitely() -> None:
    values = torch.tensor([[7.0, NAN], [7.0, NAN]])
    encode = Numbers(values, periods=[0, 0], bins=3)
    assert bool(encode(torch.tensor([[7.0, NAN], [8.0, 1.0], [NAN, NAN]])).isfinite().all())
    assert all(bool(buffer.isfinite().all()) for buffer in encode.buffers())


def test_codes_out_of_range_are_unknown() -> None:
    embed = Categories([4, 6], unknown=0.5).eval()
    known = embed(torch.tensor([[UNKNOWN, UNKNOWN]]))
    for wrong in (-1, 6, 99, -(2**40)):
        assert torch.equal(embed(torch.tensor([[wrong, wrong]])), known)
    assert not torch.equal(embed(torch.tensor([[FIRST, FIRST]])), known)


def test_in_training_some_categories_are_unknown_and_in_use_none() -> None:
    torch.manual_seed(0)
    embed = Categories([3], unknown=0.25)
    codes = torch.full((4_000, 1), FIRST)
    unknown = embed(torch.tensor([[-1]]))[0]
    share = float((embed(codes) == unknown).all(dim=1).float().mean())
    assert share == pytest.approx(0.25, abs=0.03)
    assert len(embed.eval()(codes).unique(dim=0)) == 1


def test_absurd_numbers_do_not_lead_far_beyond_the_targets(
    network: TableNetwork, data: TableDataset
) -> None:
    rows = data.test.inputs[:2].clone()
    rows[:, : data.numbers] = torch.tensor([[1e9], [-1e9]])
    answers = network(rows).detach()
    assert bool(answers.isfinite().all())
    assert float((answers - data.train.targets.mean()).abs().max()) < 50 * float(
        data.train.targets.std()
    )


@pytest.mark.parametrize("places", ["numbers", "categories"])
def test_a_table_may_have_numbers_or_categories_alone(data: TableDataset, places: str) -> None:
    columns = tuple(one for one in data.table.columns if one.input == places)
    selected = slice(0, data.numbers) if places == "numbers" else slice(data.numbers, None)
    only = replace(
        data,
        table=replace(data.table, columns=columns, example=()),
        periods=data.periods if places == "numbers" else (),
        train=replace(data.train, inputs=data.train.inputs[:, selected]),
    )
    hyperparameters = TableHyperparameters(epochs=1, batch_size=8, optimizer="adam", lr=0.01)
    assert TableNetwork(hyperparameters, only)(only.train.inputs[:3]).shape == (3, 1)


def test_a_small_table_gets_a_smaller_network(data: TableDataset) -> None:
    large = replace(
        data,
        train=replace(
            data.train,
            inputs=data.train.inputs.repeat(20, 1),
            targets=data.train.targets.repeat(20, 1),
        ),
    )
    assert sum(hyperparameters_for(data).hidden) < sum(hyperparameters_for(large).hidden)
    assert 10 <= hyperparameters_for(large).epochs <= 40
