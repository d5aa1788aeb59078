"""What `python -m training` promises: packages from one command, and one sentence for a mistake."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from torchvision.datasets import MNIST
from typer.testing import CliRunner, Result

import training.command_line as command_line
import training.export
from models.package import ModelPackage, PackageError
from models.repository import ModelRepository
from training.datasets import Dataset, load
from training.fitting import Fitted
from training.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--seeds", "1", "--no-compare"]


@pytest.fixture(autouse=True)
def no_data_folder_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FITSERVE_DATA_DIR", raising=False)


def run(*arguments: str) -> Result:
    """The command in this process."""
    return CliRunner().invoke(command_line.app, arguments)


def fitted(repository: Path, *arguments: str) -> ModelPackage:
    """The one package that the command writes."""
    result = run("fit", *arguments, "--repository", str(repository))
    assert result.exit_code == 0, result.output
    (name,) = ModelRepository(repository).names()
    package = ModelRepository(repository).get(name)
    package.verify()
    return package


# What it does.


def test_list_shows_every_recipe_with_what_it_is(tmp_path: Path) -> None:
    result = run("list")
    assert result.exit_code == 0
    for recipe in RECIPES.values():
        (line,) = [line for line in result.output.splitlines() if f"{recipe.name} " in line]
        assert recipe.summary.split()[0] in line


@pytest.fixture(scope="module")
def two_packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A repository with two packages, and what the command that wrote them showed."""
    root = tmp_path_factory.mktemp("two") / "models"
    result = run(
        "fit", "curve-linear", "moons-linear", *QUICK, "--epochs", "2", "--repository", str(root)
    )
    return root, result


def test_several_recipes_make_several_packages(two_packages: tuple[Path, Result]) -> None:
    root, result = two_packages
    assert result.exit_code == 0, result.output
    assert ModelRepository(root).names() == ["curve-linear", "moons-linear"]
    assert "curve-linear/1 mean squared error" in result.output
    assert "moons-linear/1 " in result.output


def test_list_shows_the_package_of_a_recipe_and_one_that_is_broken(
    two_packages: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = two_packages
    broken = root / "moons-tanh" / "1"
    broken.mkdir(parents=True)
    (broken / "card.json").write_text("{")
    monkeypatch.chdir(root.parent)
    monkeypatch.setattr(command_line.console, "width", 300)
    result = run("list")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    assert "curve-linear/1: mean squared error" in lines["curve-linear"]
    assert "refused: package moons-tanh/1: card.json" in lines["moons-tanh"]
    assert lines["mnist-mlp"].rstrip().endswith("-")


def test_fit_writes_a_package_with_the_figures_of_both_settings_and_needs_no_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = fitted(tmp_path / "models", "curve-linear", "--seeds", "2")
    assert package.label == "curve-linear/1"
    assert [figures.setting for figures in package.card.seeds] == ["default", "tutorial"]
    assert [len(figures.seeds) for figures in package.card.seeds] == [2, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_the_command_line_s_hyperparameters_stand_in_the_card(tmp_path: Path) -> None:
    package = fitted(
        tmp_path, "mnist-mlp", "--data", "digits", *QUICK, "--epochs", "2", "--lr", "0.004",
        "--batch-size", "48", "--hidden", "8,4", "--dropout", "0.25",
        "--weight-decay", "0.01", "--seed", "11", "--schedule", "cosine", "--averaging", "0",
    )  # fmt: skip
    fit = package.card.fit
    assert fit is not None
    wanted = {
        "epochs": 2, "lr": 0.004, "batch_size": 48, "hidden": (8, 4), "dropout": 0.25,
        "weight_decay": 0.01, "seed": 11, "schedule": "cosine", "averaging": 0,
    }  # fmt: skip
    assert {name: fit.hyperparameters[name] for name in wanted} == wanted
    assert fit.seed == 11
    assert fit.epochs == 2
    assert fit.data.name == "digits"
    assert "Linear(784, 8), ReLU, Dropout(0.25), Linear(8, 4)" in fit.network
    assert [figures.seeds for figures in package.card.seeds] == [(11,)]


class Reached(Exception):  # noqa: N818 - no error: how a test stops the command
    """The command line came as far as the fit."""


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the fit is asked for, in place of a fit."""
    asked: list[dict[str, Any]] = []

    def fit(recipe: object, setting: str, settings: object, data: object, **options: Any) -> None:
        asked.append(
            {"recipe": recipe, "setting": setting, "settings": settings, "data": data} | options
        )
        raise Reached

    monkeypatch.setattr(command_line, "fit_recipe", fit)
    return asked


def test_a_fit_takes_the_default_setting_its_seeds_and_the_comparison(
    reached: list[dict[str, Any]],
) -> None:
    assert isinstance(run("fit", "moons-tanh").exception, Reached)
    (asked,) = reached
    recipe = RECIPES["moons-tanh"]
    assert (asked["recipe"], asked["setting"], asked["settings"]) == (
        recipe, "default", recipe.default,
    )  # fmt: skip
    assert (asked["seeds"], asked["compare"]) == (recipe.seeds, True)
    assert asked["data"].name == "moons"


def test_setting_seeds_comparison_and_device_are_those_that_were_named(
    reached: list[dict[str, Any]],
) -> None:
    result = run(
        "fit", "moons-tanh", "--as", "tutorial", "--seeds", "7", "--no-compare", "--device", "cpu"
    )
    assert isinstance(result.exception, Reached)
    (asked,) = reached
    assert asked["setting"] == "tutorial"
    assert asked["settings"] == RECIPES["moons-tanh"].tutorial
    assert (asked["seeds"], asked["compare"], str(asked["device"])) == (7, False, "cpu")


def test_threads_are_those_that_were_named(
    reached: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(command_line.torch, "set_num_threads", threads.append)
    run("fit", "curve-linear")
    assert threads == []
    run("fit", "curve-linear", "--threads", "3")
    assert threads == [3]
    assert len(reached) == 2


@pytest.mark.parametrize("by", ["option", "environment", "default"])
def test_the_data_folder_is_that_of_the_option_or_of_the_environment_or_data(
    by: str, reached: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, moons: Dataset
) -> None:
    folders: list[Path] = []

    def load(name: str, folder: Path) -> Dataset:
        folders.append(folder)
        return moons

    monkeypatch.setattr(command_line, "load", load)
    if by != "default":
        monkeypatch.setenv("FITSERVE_DATA_DIR", "/by/environment")
    run("fit", "moons-linear", *(["--data-dir", "/by/option"] if by == "option" else []))
    assert folders == [Path("data" if by == "default" else f"/by/{by}")]
    assert len(reached) == 1


# What it refuses.


class BegunError(AssertionError):
    """Work was begun that should not have been."""


def begun(*_: object, **__: object) -> None:
    raise BegunError


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a recipe, or --all; there are mnist-mlp"),
        (["mnist-mpl"], "there is no recipe 'mnist-mpl'; there are mnist-mlp"),
        (["curve-linear", "nope"], "there is no recipe 'nope'"),
        (["curve-linear", "--lr", "-1"], "--lr -1.0: input should be greater than 0"),
        (["curve-linear", "--lr", "nan"], "--lr nan: input should be a finite number"),
        (["curve-mlp", "--hidden", "0"], "--hidden 0: "),
        (["curve-mlp", "--hidden", "10,0"], "--hidden 0: "),
        (["curve-mlp", "--hidden", "10,x"], "--hidden 'x': input should be a valid integer"),
        (["curve-mlp", "--hidden", "10 10"], "--hidden '10 10': input should be a valid integer"),
        (["mnist-mlp", "--data-dir", "/no/such"], "there is no folder /no/such: name the one that"),
        (["mnist-cnn", "--hidden", "4"], "--hidden does not belong to this recipe, which has"),
        (["curve-linear", "--dropout", "0.5"], "--dropout does not belong to this recipe"),
        (["mnist-cnn", "--channels", "4"], "--channels [4]: too few values"),
        (["--all", "--hidden", "4"], "--hidden does not belong to this recipe"),
        (["mnist-mlp", "--data", "curve"], "mnist-mlp cannot be fitted on curve"),
        (["curve-linear", "--data", "moons"], "curve-linear cannot be fitted on moons"),
        (["moons-tanh", "--data", "digits"], "moons-tanh cannot be fitted on digits"),
        (["curve-linear", "--device", "tpu"], "there is no device 'tpu'; there is cpu"),
        (["curve-linear", "--device", "cuda:99"], "there is no device 'cuda:99'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_call_is_one_sentence_before_any_work(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "fit_recipe", begun)
    result = run("fit", *arguments, "--repository", str(tmp_path))
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    (line,) = result.output.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["curve-linear", "--lr", "fast"], "--lr"),
        (["curve-linear", "--epochs", "1.5"], "--epochs"),
        (["curve-linear", "--schedule", "linear"], "--schedule"),
        (["curve-linear", "--momentum", "0.9"], "--momentum"),
        (["curve-linear", "--seeds", "0"], "--seeds"),
        (["curve-linear", "--as", "mine"], "--as"),
        (["mnist-mlp", "--data", "letters"], "--data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_option_that_cannot_be_read_is_named_before_any_work(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "fit_recipe", begun)
    result = run("fit", *arguments, "--repository", str(tmp_path))
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert said in result.output
    assert "Traceback" not in result.output


def test_no_mnist_and_no_network_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: MNIST) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(MNIST, "download", unreachable)
    result = run("fit", "mnist-mlp", "--data-dir", str(tmp_path), "--repository", str(tmp_path))
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith(f"error: MNIST is not whole in {tmp_path} ")
    assert "--data-dir" in line
    assert "FITSERVE_DATA_DIR" in line


def test_a_fit_that_diverges_is_one_sentence_and_no_package(tmp_path: Path) -> None:
    result = run(
        "fit", "curve-linear", *QUICK, "--optimizer", "sgd", "--lr", "1e30", "--repository",
        str(tmp_path),
    )  # fmt: skip
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert last.startswith("error: the ")
    for word in ("epoch ", "batch ", "learning rate "):
        assert word in last
    assert list(tmp_path.iterdir()) == []


def test_after_ctrl_c_no_further_recipe_is_begun(
    two_packages: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = command_line.fit_recipe
    names: list[str] = []
    written: list[str] = []

    def pressed(recipe, *rest, **options):  # type: ignore[no-untyped-def]
        names.append(recipe.name)
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        return original(recipe, *rest, **options)

    def export(fitted: Fitted, repository: Path) -> ModelPackage:
        written.append(fitted.recipe.name)
        return ModelRepository(two_packages[0]).get("curve-linear")

    monkeypatch.setattr(command_line, "fit_recipe", pressed)
    monkeypatch.setattr(command_line, "export", export)
    result = run(
        "fit", "curve-linear", "moons-linear", "--epochs", "1000000", "--keep-interrupted",
        "--repository", str(tmp_path),
    )  # fmt: skip
    assert result.exit_code == 130, result.output
    assert names == written == ["curve-linear"]


def test_a_repository_that_cannot_be_written_is_one_sentence_before_anything_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a network was fitted in vain")

    monkeypatch.setattr(command_line, "fit_recipe", never)
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "models"):
        result = run("fit", "curve-linear", "--repository", str(root))
        assert result.exit_code == 1
        reason = "packages cannot be written there (Not a directory)"
        assert result.output == f"error: the repository {root}: {reason}\n"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "the repository {root}: packages cannot be written there (No space left on device)",
        ),
        (PackageError("curve-linear/1", None, "it exists already"),
         "package curve-linear/1: it exists already"),
    ],
)  # fmt: skip
def test_a_package_that_cannot_be_written_is_one_sentence(
    error: Exception, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(training.export, "write_package", fails)
    result = run("fit", "curve-linear", *QUICK, "--epochs", "1", "--repository", str(tmp_path))
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == f"error: {sentence.format(root=tmp_path)}"


# What is published over an earlier version.


def test_a_worse_fit_is_refused_with_both_figures_and_written_with_replace(
    two_packages: tuple[Path, Result], tmp_path: Path
) -> None:
    root = tmp_path / "models"
    shutil.copytree(two_packages[0] / "curve-linear", root / "curve-linear")
    metrics = ModelRepository(root).get("curve-linear").card.evaluations[0].metrics
    worse = ["fit", "curve-linear", *QUICK, "--epochs", "1", "--lr", "1e-6"]
    result = run(*worse, "--repository", str(root))
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert last.startswith("error: curve-linear: mse ")
    assert f"is worse than the {metrics['mse']:.6g} of curve-linear/1" in last
    assert "--replace" in last
    assert ModelRepository(root).versions("curve-linear") == ["1"]
    assert (root / ".checkpoints" / "curve-linear.pt").is_file()

    result = run(*worse, "--replace", "--repository", str(root))
    assert result.exit_code == 0, result.output
    assert ModelRepository(root).versions("curve-linear") == ["1", "2"]

    better = run("fit", "curve-linear", *QUICK, "--epochs", "3", "--repository", str(root))
    assert better.exit_code == 0, better.output
    assert ModelRepository(root).versions("curve-linear") == ["1", "2", "3"]


def test_a_refused_fit_does_not_keep_the_next_recipe_from_being_fitted(
    two_packages: tuple[Path, Result], tmp_path: Path
) -> None:
    root = tmp_path / "models"
    shutil.copytree(two_packages[0] / "curve-linear", root / "curve-linear")
    result = run(
        "fit", "curve-linear", "moons-linear", *QUICK, "--epochs", "1", "--lr", "1e-6",
        "--repository", str(root),
    )  # fmt: skip
    assert result.exit_code == 1
    assert ModelRepository(root).versions("curve-linear") == ["1"]
    assert ModelRepository(root).versions("moons-linear") == ["1"]


def test_other_data_is_refused_before_any_work_and_written_with_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["mnist-mlp", "--data", "digits", *QUICK, "--epochs", "1", "--hidden", "4"]
    shutil.copytree(ROOT / "models" / "mnist-mlp", tmp_path / "mnist-mlp")
    with monkeypatch.context() as patched:
        patched.setattr(command_line, "fit_recipe", begun)
        result = run("fit", *small, "--repository", str(tmp_path))
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("error: mnist-mlp/1 was trained on mnist (SHA-256 ")
    assert "99.46% of 10,000 test samples right" in line
    assert "digits (SHA-256 " in line
    assert "--replace" in line
    assert ModelRepository(tmp_path).versions("mnist-mlp") == ["1"]
    result = run("fit", *small, "--replace", "--repository", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert ModelRepository(tmp_path).versions("mnist-mlp") == ["1", "2"]


def test_an_absurd_result_is_never_written(tmp_path: Path) -> None:
    result = run(
        "fit", "curve-linear", *QUICK, "--replace", "--keep-interrupted", "--epochs", "1",
        "--lr", "1e6", "--repository", str(tmp_path),
    )  # fmt: skip
    assert result.exit_code == 1
    assert "is over ten times that of answering the mean" in result.output
    assert ModelRepository(tmp_path).names() == []


# As a real process.


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "training", *arguments]


def test_a_mistake_in_a_real_process_is_one_line_and_no_traceback() -> None:
    done = subprocess.run(
        command("fit", "curve-linear", "--lr", "-1"), cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "error: --lr -1.0: input should be greater than 0\n"


@contextmanager
def fitting(
    repository: Path, *more: str
) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], str]]]:
    """A process that fits for far too long; and a way to wait for a line with some words."""
    process = subprocess.Popen(
        command(
            "fit", "curve-tanh", "moons-tanh", "--epochs", "40000", "--batch-size", "240",
            "--threads", "1", "--repository", str(repository), *more,
        ),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    watchdog = threading.Timer(200, process.kill)
    watchdog.start()
    stderr: IO[str] | None = process.stderr
    assert stderr is not None

    def wait_for(words: str) -> str:
        lines = ""
        for line in stderr:
            lines += line
            if words in line:
                return lines
        raise AssertionError(f"never said {words!r}:\n{lines}")

    try:
        yield process, wait_for
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def test_ctrl_c_during_a_fit_keeps_the_best_weights_and_a_second_one_keeps_nothing(
    tmp_path: Path,
) -> None:
    # A shell's background job ignores Ctrl-C, and its children would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (
        fitting(tmp_path / "one") as (one, said_by_one),
        fitting(tmp_path / "two", "--keep-interrupted") as (two, said),
        fitting(tmp_path / "kept", "--keep-interrupted") as (kept, said_by_kept),
    ):
        for wait_for in (said_by_one, said, said_by_kept):
            wait_for("epoch 2000/40000: ")
        for process in (one, two, kept):
            process.send_signal(signal.SIGINT)
        said("on the test split, mse ")
        while two.poll() is None:  # it exports now; torch may swallow one Ctrl-C, as may anybody
            two.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                two.wait(timeout=0.2)
        _, rest = two.communicate(timeout=100)
        assert two.returncode in (130, -signal.SIGINT)  # a shell calls both 130
        assert "Traceback" not in rest
        assert not list(tmp_path.glob("two/**/*.*"))

        said_by_one("Ctrl-C again stops at once")
        last = said_by_one("error: curve-tanh: interrupted, no package is written")
        assert "moons-tanh" not in last
        shown, rest = one.communicate(timeout=100)
        assert (one.returncode, shown, rest) == (130, "", "")

        shown, rest = kept.communicate(timeout=100)
        assert kept.returncode == 130, rest
        assert shown.startswith("curve-tanh/1 ")
        assert "moons-tanh" not in rest
    assert ModelRepository(tmp_path / "one").names() == []
    checkpoint = torch.load(tmp_path / "one/.checkpoints/curve-tanh.pt", weights_only=True)
    assert checkpoint["recipe"] == "curve-tanh"
    assert 1 <= checkpoint["epoch"] < 40_000
    recipe = RECIPES["curve-tanh"]
    network = recipe.build(recipe.default.override({}), load("curve", Path("data")))
    network.load_state_dict(checkpoint["weights"])

    package = ModelRepository(tmp_path / "kept").get("curve-tanh")
    package.verify()
    assert package.card.fit is not None
    assert 1 <= package.card.fit.kept_epoch <= package.card.fit.epochs < 40_000
    assert ModelRepository(tmp_path / "kept").names() == ["curve-tanh"]
