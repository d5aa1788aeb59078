"""Tests of Fashion-MNIST: where its files come from, and what the shipped package answers."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from training.datasets import GARMENT_LABELS, DataError, Dataset
from training.datasets.fashion import DEBIAN_FOLDER, fashion
from training.recipes.fashion import GARMENT

DOWNLOAD = "torchvision.datasets.FashionMNIST.download"


@pytest.fixture(scope="module")
def garments() -> Dataset:
    """Return the real data set; skip the test if no folder has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DOWNLOAD, no_network)
        try:
            return fashion(Path("data"))
        except DataError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def package(shipped: Path) -> ModelPackage:
    return ModelRepository(shipped).get("fashion-cnn")


def no_network(*_: object, **__: object) -> None:
    raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")


def idx(array: np.ndarray[Any, Any]) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_debian(folder: Path, rows: int = 5_020, **changed: bytes) -> None:
    folder.mkdir()
    for part, count in (("train", rows), ("t10k", 30)):
        images = np.arange(count * 784).reshape(count, 28, 28) % 251
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(count) % 10)):
            content = changed.get(part, gzip.compress(idx(array), 1))
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(content)


def test_debian_s_files_are_read_where_the_folder_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DOWNLOAD, no_network)
    write_debian(tmp_path / "debian")
    data = fashion(tmp_path / "data", tmp_path / "debian")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [20, 5_000, 30]
    assert data.test.targets.tolist() == [row % 10 for row in range(30)]
    assert torch.equal(data.test.inputs[0], torch.arange(784).view(28, 28).remainder(251).byte())


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"no idx"), gzip.compress(idx(np.ones((9, 9)))[:40])],
    ids=["empty", "no gzip", "no idx", "truncated"],
)
def test_damaged_files_are_a_sentence(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DOWNLOAD, no_network)
    write_debian(tmp_path / "debian", t10k=content)
    with pytest.raises(DataError, match="install Debian's package dataset-fashion-mnist again"):
        fashion(tmp_path / "data", tmp_path / "debian")


def test_without_files_and_network_the_error_names_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DOWNLOAD, no_network)
    with pytest.raises(DataError, match=r"FashionMNIST/raw.*--data-dir.*dataset-fashion-mnist"):
        fashion(tmp_path, tmp_path / "debian")


def test_the_files_are_the_published_ones(garments: Dataset) -> None:
    assert [len(garments.train), len(garments.validation), len(garments.test)] == [
        55_000, 5_000, 10_000,
    ]  # fmt: skip
    assert garments.test.targets[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert garments.test.targets.bincount().tolist() == [1_000] * 10
    counts = garments.train.targets.bincount() + garments.validation.targets.bincount()
    assert counts.tolist() == [6_000] * 10


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is absent")
def test_the_shipped_data_are_those_of_debian(package: ModelPackage, garments: Dataset) -> None:
    assert package.card.fit is not None
    assert package.card.fit.data == garments.record()


def test_the_shipped_network_reaches_its_accuracy(package: ModelPackage, garments: Dataset) -> None:
    assert package.card.evaluations[0].metrics["accuracy"] >= 0.94
    rows = garments.test.inputs[:500].numpy()
    answers = open_runtime(package, "onnx")({"garment": rows})["probabilities"]
    right = answers.argmax(axis=1) == garments.test.targets[:500].numpy()
    assert float(right.mean()) >= 0.92


def test_a_garment_and_its_mirror_image_get_one_answer(package: ModelPackage) -> None:
    rows = package.card.example.inputs["garment"].array()
    runtime = open_runtime(package, "onnx")
    mirrored = np.ascontiguousarray(rows[:, :, ::-1])
    assert runtime({"garment": mirrored})["probabilities"] == pytest.approx(
        runtime({"garment": rows})["probabilities"], abs=1e-5
    )


def test_a_picture_of_28_by_28_pixels_becomes_its_own_pixels(package: ModelPackage) -> None:
    row = package.card.example.inputs["garment"].array()[0]
    spec = package.card.inputs[0]
    assert spec == GARMENT
    assert spec.picture is not None
    for mode in ("L", "RGB"):
        image = Image.fromarray(row).convert(mode)
        assert np.array_equal(spec.picture.pixels(image, spec.row_shape), row)


def test_the_shipped_files_are_small(package: ModelPackage) -> None:
    assert package.card.outputs[0].labels == GARMENT_LABELS
    assert max(file.bytes for file in package.card.files.values()) < 2_000_000
