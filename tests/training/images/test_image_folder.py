"""Tests of pictures in folders: read as the service reads them, trained, and asked."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from training.command_line import app
from training.datasets import DataError, Dataset
from training.images.folder import PICTURE, image_folder
from training.images.recipe import PictureHyperparameters, distortion, image_recipe

CPU = torch.device("cpu")


def picture(colour: tuple[int, int, int], seed: int, side: int = 40) -> Image.Image:
    """Return a noisy picture of one colour, wider than high."""
    noise = np.random.default_rng(seed).integers(-40, 40, (side, side + 8, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def write_classes(folder: Path, count: int, seed: int = 0) -> None:
    colours = {"red": (200, 60, 60), "green": (60, 200, 60)}
    for label, colour in colours.items():
        (folder / label).mkdir(parents=True)
        for index in range(count):
            picture(colour, seed + index).save(folder / label / f"{index}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_classes(tmp_path / "colours", 20)
    return tmp_path / "colours"


def test_the_classes_are_the_folders_and_the_rows_are_the_service_s_pixels(folder: Path) -> None:
    (folder / "red" / "Thumbs.db").write_bytes(b"no picture")
    (folder / "red" / ".hidden.png").write_bytes(b"no picture")
    data = image_folder(folder, "colours", 16)
    assert data.labels == ("green", "red")
    assert [len(s) for s in (data.train, data.validation, data.test)] == [24, 8, 8]
    assert (data.train.inputs.shape[1:], data.train.inputs.dtype) == ((3, 16, 16), torch.uint8)
    red = data.all_rows.inputs[data.all_rows.targets == 1]
    expected = PICTURE.pixels(Image.open(folder / "red" / "3.png"), (3, 16, 16))
    assert any(np.array_equal(row, expected) for row in red.numpy())


def test_pictures_that_are_divided_already_keep_their_splits(tmp_path: Path) -> None:
    for split, count, seed in (("train", 8, 0), ("val", 5, 100), ("test", 3, 200)):
        write_classes(tmp_path / split, count, seed)
    data = image_folder(tmp_path, "colours", 8)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [16, 10, 6]


def test_a_turned_photograph_is_upright(folder: Path) -> None:
    image = picture((200, 60, 60), 99)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(folder / "red" / "turned.jpg", exif=exif, quality=100)
    upright = PICTURE.pixels(
        Image.open(folder / "red" / "turned.jpg").transpose(Image.Transpose.ROTATE_270), (3, 8, 8)
    )
    rows = image_folder(folder, "colours", 8).all_rows.inputs.numpy()
    assert any(np.array_equal(row, upright) for row in rows)


def remove_pictures(folder: Path) -> None:
    for file in (folder / "red").iterdir():
        file.unlink()


def only_one_class(folder: Path) -> None:
    remove_pictures(folder)
    (folder / "red").rmdir()


def damaged(folder: Path) -> None:
    (folder / "red" / "7.png").write_bytes(b"no picture")


def another_class_in_test(folder: Path) -> None:
    for split in ("train", "val", "test"):
        write_classes(folder / split, 6)
    (folder / "test" / "blue").mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_pictures, r"colours/red has 0 pictures \(.*\): 5 are needed of each class"),
        (only_one_class, r"colours has 1 folders: put the pictures of each class into a folder"),
        (damaged, r"red/7.png is no picture that can be read: remove it"),
        (another_class_in_test, r"test has the class 'blue', which the training pictures lack"),
    ],
)
def test_a_mistake_is_one_sentence(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=message) as caught:
        image_folder(folder, "colours", 8)
    assert "\n" not in str(caught.value)


def test_distorted_pictures_are_mirrored_and_shifted(folder: Path) -> None:
    data: Dataset = image_folder(folder, "colours", 16)
    hyperparameters = image_recipe("colours", lambda _: data, "small", False).default
    assert isinstance(hyperparameters, PictureHyperparameters)
    rows = data.train.inputs
    mirrored = distortion(hyperparameters.override({"shift": 0}), CPU)
    assert mirrored is not None
    result = mirrored(rows, torch.Generator().manual_seed(0))
    same = (result == rows).flatten(1).all(dim=1)
    flipped = (result == rows.flip(3)).flatten(1).all(dim=1)
    assert bool((same | flipped).all())
    assert 0 < int(same.sum()) < len(rows)
    assert distortion(hyperparameters.override({"shift": 0, "mirror": False}), CPU) is None


def test_the_command_trains_and_writes_a_package_that_takes_pictures(
    folder: Path, tmp_path: Path
) -> None:
    arguments = [
        "fit", "--images", str(folder), "--size", "16", "--epochs", "4", "--set", "channels=[8]",
        "--threads", "1", "--repository", str(tmp_path / "models"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    package = ModelRepository(tmp_path / "models").get("colours")
    package.verify()
    card = package.card
    assert card.evaluations[0].metrics["accuracy"] == 1
    assert card.inputs[0].picture == PICTURE
    pixels = PICTURE.pixels(picture((60, 200, 60), 1234), (3, 16, 16))
    answer = open_runtime(package, "onnx")({"image": pixels[None]})["probabilities"][0]
    assert card.outputs[0].labels is not None
    assert card.outputs[0].labels[int(answer.argmax())] == "green"
    assert (package.path / "report" / "confusion-matrix.png").exists()


@pytest.mark.slow
def test_a_network_of_timm_by_its_name(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    arguments = [
        "fit", "--images", str(folder), "--size", "32", "--epochs", "5", "--network", "resnet10t",
        "--name", "named", "--threads", "1", "--repository", str(tmp_path / "models"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert len(ModelRepository(tmp_path / "models").get("named").card.parity) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--network", "resnet999"], "timm has no network 'resnet999': give small, or one of "),
        (["--name", "a/b"], "the name 'a/b' "),
        (["--images", "/nowhere/here"], "there is no folder /nowhere/here: give one that has"),
    ],
)
def test_an_option_that_does_not_fit_is_named(
    more: list[str], message: str, folder: Path, tmp_path: Path
) -> None:
    arguments = ["fit", "--images", str(folder), "--repository", str(tmp_path / "models"), *more]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"error: {message}" in result.output
