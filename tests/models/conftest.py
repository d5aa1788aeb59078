"""Two real packages for the tests of `models/`, written once and copied for each test."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from small_packages import Kit, bend_kit, blot_kit

from models.package.model_package import ModelPackage, write_package
from models.package.repository import ModelRepository


@pytest.fixture(scope="session")
def kits() -> Mapping[str, Kit]:
    """The networks `blot` (a classifier of images) and `bend` (a curve), and their cards."""
    return {"blot": blot_kit(), "bend": bend_kit()}


@pytest.fixture(scope="session")
def written(kits: Mapping[str, Kit], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both packages, shared by all tests. Tests must not change it."""
    root = tmp_path_factory.mktemp("written")
    for kit in kits.values():
        write_package(root, kit.card, kit.files)
    return root


@pytest.fixture
def repository(written: Path, tmp_path: Path) -> ModelRepository:
    """A copy of both packages for one test."""
    return ModelRepository(Path(shutil.copytree(written, tmp_path / "repository")))


@pytest.fixture
def blot(repository: ModelRepository) -> ModelPackage:
    """The classifier: its card has all fields, and the package has a plot."""
    return repository.get("blot")


@pytest.fixture
def bend(repository: ModelRepository) -> ModelPackage:
    """The curve: its card has only the required fields and one metric."""
    return repository.get("bend")


@pytest.fixture(scope="module")
def one_trial_of_each_graph() -> Iterator[None]:
    """`add` computes each graph in another process once, and not in each test of the module.

    The start of that process takes most of the time of such a test. The values of the rows, which
    the tests vary, do not change what the trial finds.
    """
    from models.adding.observed import require_safe

    unsafe: dict[Any, Mapping[str, tuple[int, ...]]] = {}

    def require_safe_once(
        file: str, content: bytes, inputs: Any, rows: Mapping[str, Any], *others: Any
    ) -> Mapping[str, tuple[int, ...]]:
        key = content, *((name, array.shape[1:]) for name, array in rows.items())
        if key not in unsafe:
            unsafe[key] = require_safe(file, content, inputs, rows, *others)
        return unsafe[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.adding.observed.require_safe", require_safe_once)
        yield
