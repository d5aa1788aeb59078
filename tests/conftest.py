"""What every test may count on: a home for BentoML, and a GPU where a test asks for one."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from foreign_networks import Added

# BentoML makes its folders when it is imported: not among the user's.
HOME = Path(tempfile.mkdtemp(prefix="fitserve-"))
os.environ["BENTOML_HOME"] = str(HOME)
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.environ["XDG_STATE_HOME"] = str(HOME / "state")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for the tests that import it themselves

SHIPPED = (
    *("curve-linear", "curve-mlp", "curve-tanh"),
    *("moons-linear", "moons-tanh"),
    *("mnist-mlp", "mnist-cnn"),
)


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shipped(root: Path) -> Path:
    """The repository of the seven packages: `models/`, or a stand-in while those are not fitted."""
    packages = root / "models"
    missing = [name for name in SHIPPED if not any((packages / name).glob("*/card.json"))]
    stand_in = os.environ.get("FITSERVE_MODEL_REPOSITORY")
    if missing and stand_in:
        return Path(stand_in).resolve()
    assert not missing, f"models/ lacks {', '.join(missing)}: run python -m training fit"
    return packages


@pytest.fixture(scope="session")
def mnist_folder(root: Path) -> Path:
    """The folder that holds MNIST/raw, where it is at hand."""
    folder = Path(os.environ.get("FITSERVE_DATA_DIR", root / "data"))
    raw = folder / "MNIST" / "raw"
    if not all((raw / f"{part}-images-idx3-ubyte").is_file() for part in ("train", "t10k")):
        pytest.skip(f"MNIST is not in {folder}: name its folder with FITSERVE_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def added_repository(tmp_path_factory: pytest.TempPathFactory) -> "Added":
    """Five networks of Keras, torchvision, scikit-learn and torch, added as a user adds them."""
    from foreign_networks import ALL, Added

    from models.__main__ import main

    folder, root = tmp_path_factory.mktemp("foreign"), tmp_path_factory.mktemp("added")
    networks = [make(folder) for make in ALL]
    for network in networks:
        options = ["--onnx", str(network.onnx), "--repository", str(root)]
        if network.torchscript:
            options += ["--torchscript", str(network.torchscript)]
        if network.labels:
            options += ["--label", *network.labels]
        assert main(["add", network.name, *options]) == 0, network.name
    return Added(root, {network.name: network for network in networks})
