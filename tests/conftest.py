"""Shared set-up: a home for BentoML, the shipped packages, and the marker of GPU tests."""

import os
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from exported_networks import Added

# BentoML creates its folders at import: not in the user's home.
HOME = Path(tempfile.mkdtemp(prefix="fitserve-"))
os.environ["BENTOML_HOME"] = str(HOME)
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.environ["XDG_STATE_HOME"] = str(HOME / "state")
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers share the folder of their parent
    os.environ["FITSERVE_TIMINGS_FOLDER"] = str(HOME / "timings")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for tests that import it in this process

SHIPPED = (
    *("curve-linear", "curve-mlp", "curve-tanh"),
    *("moons-linear", "moons-tanh"),
    *("mnist-mlp", "mnist-cnn"),
    *("perceptron-and", "perceptron-xor", "xor-mlp", "adder-transformer"),
    *("fashion-cnn", "flights-mlp", "names-lstm"),
)


SLOW_FILES = {
    "fitserve": "libraries pictures saving sources",
    "models": "interrupts models_program",
    "models/adding": "add empty_dimensions weights_beside",
    "models/graphs": "half_precision row_dependence text_networks vector_tails",
    "models/kinds": "answers labels layouts split_rows table_columns",
    "models/proofs": "small_outputs",
    "models/runtimes": "bfloat16",
    "models/sources": "free_sizes max_length",
    "models/torch_graphs": "programs script_mixing",
    "service": "parent_watch",
    "service/batching": "fairness",
    "service/http": "body",
    "service/inference": (
        "busy_polling placement signed_packages timings_cache unused_runtimes watchdog"
    ),
    "training": "export own_recipe runs snapshots training_cli",
    "training/images": "image_folder",
    "training/recipes": "fashion logic names recipes",
    "training/reports": "plots",
    "training/tables": "table_command",
    "training/tracking": "tracking",
    "training/tuning": "tuning",
}
"""By their folder. A name stands for each that begins with it."""

MARKED_FILES = {
    "e2e": (
        *("end_to_end/", "own/", "fitserve/test_pictures.py"),
        *("test_command_line.py", "test_examples.py", "test_readme.py"),
    ),
    "clients": ("end_to_end/test_clients.py",),
    "slow": (
        *("benchmarks/", "deploy/", "own/"),
        *(
            f"{folder}/test_{name}"
            for folder, names in SLOW_FILES.items()
            for name in names.split()
        ),
    ),
}
"""The tests of these files get the marker; each other slow test has it in its own file."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(tests).as_posix()
        for marker, paths in MARKED_FILES.items():
            if path.startswith(paths):
                item.add_marker(marker)
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import the files of which `-m "not slow"` deselects every test."""
    if config.option.markexpr != "not slow":
        return None
    path = collection_path.relative_to(Path(__file__).parent).as_posix()
    return (path.endswith(".py") and path.startswith(MARKED_FILES["slow"])) or None


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of async tests and fixtures."""
    return "asyncio"


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shipped(root: Path) -> Path:
    """The repository of the shipped packages: `models/`, or a stand-in before they are trained."""
    packages = root / "models"
    missing = [name for name in SHIPPED if not any((packages / name).glob("*/card.json"))]
    stand_in = os.environ.get("FITSERVE_MODEL_REPOSITORY")
    if missing and stand_in:
        return Path(stand_in).resolve()
    assert not missing, f"models/ lacks {', '.join(missing)}: run python -m training fit"
    return packages


@pytest.fixture(scope="session")
def mnist_folder(root: Path) -> Path:
    """The folder with MNIST/raw, if available."""
    folder = Path(os.environ.get("FITSERVE_DATA_DIR", root / "data"))
    raw = folder / "MNIST" / "raw"
    if not all((raw / f"{part}-images-idx3-ubyte").is_file() for part in ("train", "t10k")):
        pytest.skip(f"MNIST is not in {folder}: name its folder with FITSERVE_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def added_repository(tmp_path_factory: pytest.TempPathFactory) -> "Added":
    """Five networks of Keras, torchvision, scikit-learn and torch, added as a user adds them.

    The workers of a test run share them. Tests must not change the repository.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    networks = folder / "added-networks.pickle"
    with FileLock(folder / "added-networks.lock"):
        if not networks.exists():
            networks.write_bytes(pickle.dumps(_add_networks(tmp_path_factory)))
        return cast("Added", pickle.loads(networks.read_bytes()))  # noqa: S301 - from above


def _add_networks(tmp_path_factory: pytest.TempPathFactory) -> "Added":
    from exported_networks import ALL, Added

    from models.__main__ import main

    folder, root = tmp_path_factory.mktemp("exported"), tmp_path_factory.mktemp("added")
    networks = [make(folder) for make in ALL]
    for network in networks:
        options = ["--onnx", str(network.onnx), "--repository", str(root)]
        if network.torchscript:
            options += ["--torchscript", str(network.torchscript)]
        if network.labels:
            options += ["--label", *network.labels]
        assert main(["add", network.name, *options]) == 0, network.name
    return Added(root, {network.name: network for network in networks})
