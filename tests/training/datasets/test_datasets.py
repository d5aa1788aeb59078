"""Tests of the data sets: shapes, disjoint splits, and a digest of every value."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training import datasets
from training.datasets import DataError, Dataset, Split, load

SIZES = {
    "digits": (1_200, 197, 400),
    "curve": (240, 60, 3_000),
    "moons": (160, 40, 10_000),
    "mnist": (55_000, 5_000, 10_000),
}
MNIST_DOWNLOAD = "torchvision.datasets.MNIST.download"  # by name: its import takes a second


@pytest.fixture(params=SIZES)
def data(request: pytest.FixtureRequest) -> Dataset:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def splits_of(data: Dataset) -> dict[str, Split]:
    return {"train": data.train, "validation": data.validation, "test": data.test}


def rows_of(split: Split) -> set[bytes]:
    """Return the rows, input and target, as bytes."""
    inputs = split.inputs.reshape(len(split), -1).numpy()
    targets = split.targets.reshape(len(split), -1).numpy()
    return {a.tobytes() + b.tobytes() for a, b in zip(inputs, targets, strict=True)}


def test_every_split_has_its_size(data: Dataset) -> None:
    sizes = tuple(len(split) for split in splits_of(data).values())
    assert sizes == SIZES[data.name]
    assert all(len(split.inputs) == len(split.targets) for split in splits_of(data).values())
    assert len(data.all_rows) == sum(sizes)


def test_no_two_splits_share_a_row(data: Dataset) -> None:
    rows = {name: rows_of(split) for name, split in splits_of(data).items()}
    assert [len(split_rows) for split_rows in rows.values()] == list(
        SIZES[data.name]
    )  # no duplicates within a split
    for first, second in itertools.combinations(rows, 2):
        assert not rows[first] & rows[second], f"{first} and {second}"


def test_inputs_and_targets_have_the_types_and_shapes_that_the_loop_expects(data: Dataset) -> None:
    shape, dtype, kind = {
        "digits": ((28, 28), torch.uint8, torch.int64),
        "mnist": ((28, 28), torch.uint8, torch.int64),
        "curve": ((1,), torch.float32, torch.float32),
        "moons": ((2,), torch.float32, torch.int64),
    }[data.name]
    for split in splits_of(data).values():
        assert (split.inputs.shape[1:], split.inputs.dtype) == (shape, dtype)
        assert split.targets.dtype == kind
        assert split.targets.shape[1:] == (() if data.task == "classification" else (1,))
        if data.task == "classification":
            assert split.targets.unique().tolist() == list(range(len(data.labels)))


def test_task_and_input_kind_describe_the_tensors(data: Dataset) -> None:
    assert data.task == ("classification" if data.labels else "regression")
    assert data.input_kind == ("images" if data.train.inputs.ndim == 3 else "columns")
    assert data.outputs == {"curve": 1, "moons": 2}.get(data.name, 10)


@pytest.mark.slow
def test_only_mnist_has_an_external_test_set(data: Dataset) -> None:
    if data.name == "mnist":
        assert data.external is not None
        assert (data.external().name, data.external().labels) == ("digits", data.labels)
    else:
        assert data.external is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "curve", "moons"])
def test_data_and_digest_are_the_same_at_every_call(name: str, tmp_path: Path) -> None:
    first, second = load(name, tmp_path), load(name, tmp_path)
    assert first.record() == second.record()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["train", "validation", "test"])
@pytest.mark.parametrize("tensor", ["inputs", "targets"])
def test_the_digest_changes_with_any_value(few_digits: Dataset, name: str, tensor: str) -> None:
    split = splits_of(few_digits)[name]
    tensors = {"inputs": split.inputs.clone(), "targets": split.targets.clone()}
    tensors[tensor].view(-1)[-1] += 1
    changed = replace(few_digits, **{name: Split(**tensors)})
    assert changed.record().sha256 != few_digits.record().sha256


def test_the_digest_changes_with_the_order_of_rows(few_digits: Dataset) -> None:
    train = Split(few_digits.train.inputs.flip(0), few_digits.train.targets.flip(0))
    assert replace(few_digits, train=train).record().sha256 != few_digits.record().sha256


def test_the_record_has_name_and_sizes(few_digits: Dataset) -> None:
    record = few_digits.record()
    assert record.name == "digits"
    assert record.splits.model_dump() == {"train": 96, "validation": 32, "test": 40}
    assert len(record.sha256) == 64


def test_every_digit_has_mnist_s_framing(digits: Dataset) -> None:
    images = digits.all_rows.inputs
    ink = images > 0
    height, width = ink.any(dim=2).sum(dim=1), ink.any(dim=1).sum(dim=1)
    assert torch.maximum(height, width).unique().tolist() == [20]
    assert images.amax(dim=(1, 2)).unique().tolist() == [255]
    assert bool((images.amin(dim=(1, 2)) == 0).all())
    assert bool(((centres(images) >= 13.45) & (centres(images) <= 14.55)).all())


def test_mnist_and_the_digits_have_the_same_centre(mnist: Dataset, digits: Dataset) -> None:
    difference = centres(mnist.test.inputs).mean(dim=0) - centres(digits.all_rows.inputs).mean(
        dim=0
    )
    assert float(difference.abs().max()) < 0.1


def test_the_framed_digits_still_match_their_labels(digits: Dataset) -> None:
    """A nearest-mean classifier would fail if framing mixed up images and labels."""
    train, test = digits.train, digits.test
    means = torch.stack([train.inputs[train.targets == c].float().mean(0) for c in range(10)])
    distance = torch.cdist(test.inputs.float().flatten(1), means.flatten(1))
    assert float((distance.argmin(dim=1) == test.targets).float().mean()) > 0.85


def centres(images: torch.Tensor) -> torch.Tensor:
    """Return the centre of mass of each image, [N, 2], in pixels from the first pixel."""
    mass = images.float() / images.float().sum(dim=(1, 2), keepdim=True)
    position = torch.arange(28.0)
    return torch.stack([mass.sum(dim=2) @ position, mass.sum(dim=1) @ position], dim=1)


def test_the_curve_is_x_plus_2_sin_x_with_noise_of_variance_one(curve: Dataset) -> None:
    assert curve.truth is not None
    torch.testing.assert_close(
        curve.truth(torch.tensor([[0.0], [torch.pi / 2]])),
        torch.tensor([[0.0], [torch.pi / 2 + 2]]),
    )
    for split in splits_of(curve).values():
        assert float(split.inputs.min()) >= 0
        assert float(split.inputs.max()) <= 20
    assert (float(curve.test.inputs.min()), float(curve.test.inputs.max())) == (0, 20)
    noise = curve.test.targets - curve.truth(curve.test.inputs)
    assert float(noise.var()) == pytest.approx(1, abs=0.1)
    assert float(noise.mean()) == pytest.approx(0, abs=0.06)


def test_validation_points_are_spread_over_the_data(curve: Dataset, moons: Dataset) -> None:
    gaps = curve.validation.inputs.flatten().sort().values.diff()
    assert float(gaps.max()) < 20 / 60 * 1.5
    share = moons.validation.targets.float().mean()
    assert 0.3 < float(share) < 0.7


def test_the_moons_are_two_interleaving_half_circles(moons: Dataset) -> None:
    points, upper = moons.test.inputs, moons.test.targets == 0
    to_upper = (points - torch.tensor([0.0, 0.0])).norm(dim=1)
    to_lower = (points - torch.tensor([1.0, 0.5])).norm(dim=1)
    assert float((to_upper[upper] - 1).abs().max()) < 0.3
    assert float((to_lower[~upper] - 1).abs().max()) < 0.3
    assert int(upper.sum()) == 5_000


def test_a_split_can_be_moved_to_a_device(moons: Dataset) -> None:
    moved = moons.train.to(torch.device("meta"))
    assert (moved.inputs.device.type, moved.targets.device.type) == ("meta", "meta")


def no_network(*_: object, **__: object) -> None:
    raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")


def test_missing_mnist_without_network_is_a_one_line_error_that_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MNIST_DOWNLOAD, no_network)
    with pytest.raises(DataError) as caught:
        load("mnist", tmp_path)
    message = str(caught.value)
    assert "--data-dir" in message
    assert "FITSERVE_DATA_DIR" in message
    assert str(tmp_path) in message
    assert "\n" not in message


def test_a_folder_that_cannot_be_written_is_the_same_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DataError, match="--data-dir"):
        load("mnist", file / "below")


@pytest.mark.parametrize("size", [0, 8, 1_000])
def test_a_truncated_mnist_is_the_same_error(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MNIST_DOWNLOAD, lambda self: None)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (60_000, 28, 28))
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes((header + bytes(2_000))[:size])
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="--data-dir"):
        load("mnist", tmp_path)


def test_an_absent_mnist_is_downloaded_into_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: Any) -> None:
        raw = Path(self.raw_folder)
        raw.mkdir(parents=True, exist_ok=True)
        for prefix, rows in (("train", 60_000), ("t10k", 100)):
            images = b"".join(n.to_bytes(4, "big") for n in (rows, 28, 28))
            (raw / f"{prefix}-images-idx3-ubyte").write_bytes(
                bytes([0, 0, 8, 3]) + images + bytes(rows * 784)
            )
            (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
                bytes([0, 0, 8, 1]) + rows.to_bytes(4, "big") + bytes(rows)
            )

    monkeypatch.setattr(MNIST_DOWNLOAD, download)
    data = load("mnist", tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 100)


def test_mnist_matches_the_published_files(mnist: Dataset) -> None:
    """Check facts of the published files: the first test digits and the count of each digit."""
    assert mnist.test.targets[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    rows = torch.cat([mnist.train.targets, mnist.validation.targets])
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert rows.bincount().tolist() == counts
    assert float(mnist.all_rows.inputs[:60_000].float().mean() / 255) == pytest.approx(
        0.1307, abs=1e-4
    )


def test_mnist_s_validation_split_holds_every_digit_in_its_share(mnist: Dataset) -> None:
    share = mnist.validation.targets.bincount() / len(mnist.validation)
    assert float((share - mnist.train.targets.bincount() / len(mnist.train)).abs().max()) < 0.02


def test_a_missing_folder_is_no_error_for_generated_data(tmp_path: Path) -> None:
    """Only MNIST needs a folder."""
    assert datasets.load("curve", tmp_path / "missing").name == "curve"
