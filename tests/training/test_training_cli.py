"""Tests of `python -m training`: its packages, and a one-line error for every mistake."""

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
from torchvision.datasets import MNIST
from typer.testing import CliRunner, Result

import training.command_line as command_line
import training.export
import training.recipe
from models.package.model_package import ModelPackage, PackageError
from models.package.repository import ModelRepository
from training.datasets import Dataset, load
from training.recipes import RECIPES
from training.runs import RunResult
from training.snapshots import read_tensors

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--seeds", "1", "--no-compare"]


@pytest.fixture(autouse=True)
def no_data_folder_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FITSERVE_DATA_DIR", raising=False)


def run(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(command_line.app, arguments)


def fit_one(repository: Path, *arguments: str) -> ModelPackage:
    """Run `fit` and return the only package in the repository."""
    result = run("fit", *arguments, "--repository", str(repository))
    assert result.exit_code == 0, result.output
    (name,) = ModelRepository(repository).names()
    package = ModelRepository(repository).get(name)
    package.verify()
    return package


# Commands.


def test_list_shows_every_recipe_with_its_summary(tmp_path: Path) -> None:
    result = run("list")
    assert result.exit_code == 0
    for recipe in RECIPES.values():
        (line,) = [line for line in result.output.splitlines() if f"{recipe.name} " in line]
        assert recipe.summary.split()[0] in line


@pytest.fixture(scope="module")
def two_packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Return a repository with two packages, and the result of the command that wrote them."""
    root = tmp_path_factory.mktemp("two") / "models"
    result = run(
        "fit", "curve-linear", "moons-linear", *QUICK, "--epochs", "2", "--repository", str(root)
    )
    return root, result


def test_several_recipes_write_several_packages(two_packages: tuple[Path, Result]) -> None:
    root, result = two_packages
    assert result.exit_code == 0, result.output
    assert ModelRepository(root).names() == ["curve-linear", "moons-linear"]
    assert "curve-linear/1 mean squared error" in result.output
    assert "moons-linear/1 " in result.output


def test_list_shows_packages_and_broken_packages(
    two_packages: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = two_packages
    broken = root / "moons-tanh" / "1"
    broken.mkdir(parents=True)
    (broken / "card.json").write_text("{")
    monkeypatch.setenv("FITSERVE_MODEL_REPOSITORY", str(root))
    monkeypatch.setattr(command_line.console, "width", 300)
    result = run("list")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    assert "curve-linear/1: mean squared error" in lines["curve-linear"]
    assert "refused: package moons-tanh/1: card.json" in lines["moons-tanh"]
    assert lines["mnist-mlp"].rstrip().endswith("-")


def test_fit_writes_a_package_with_both_presets_and_needs_no_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = fit_one(tmp_path / "models", "curve-linear", "--seeds", "2", "--epochs", "2")
    assert package.label == "curve-linear/1"
    assert [figures.setting for figures in package.card.seeds] == ["default", "tutorial"]
    assert [len(figures.seeds) for figures in package.card.seeds] == [2, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_the_card_records_the_hyperparameters_of_the_command_line(tmp_path: Path) -> None:
    package = fit_one(
        tmp_path, "mnist-mlp", "--data", "digits", *QUICK, "--epochs", "2", "--lr", "0.004",
        "--batch-size", "48", "--hidden", "8,4", "--dropout", "0.25",
        "--weight-decay", "0.01", "--seed", "11", "--lr-scheduler", "cosine", "--ema-decay", "0",
    )  # fmt: skip
    fit = package.card.fit
    assert fit is not None
    expected = {
        "epochs": 2, "lr": 0.004, "batch_size": 48, "hidden": (8, 4), "dropout": 0.25,
        "weight_decay": 0.01, "seed": 11, "lr_scheduler": "cosine", "ema_decay": 0,
    }  # fmt: skip
    assert {name: fit.hyperparameters[name] for name in expected} == expected
    assert fit.seed == 11
    assert fit.epochs == 2
    assert fit.data.name == "digits"
    assert "Linear(784, 8), ReLU, Dropout(0.25), Linear(8, 4)" in fit.network
    assert [figures.seeds for figures in package.card.seeds] == [(11,)]


class Reached(Exception):  # noqa: N818 - not an error: it stops the command
    """The command line reached the run of the recipe."""


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record the arguments of `run_recipe` in place of a run."""
    calls: list[dict[str, Any]] = []

    def fit(
        recipe: object, preset: str, hyperparameters: object, data: object, **options: Any
    ) -> None:
        calls.append(
            {"recipe": recipe, "preset": preset, "hyperparameters": hyperparameters, "data": data}
            | options
        )
        raise Reached

    monkeypatch.setattr(command_line, "run_recipe", fit)
    return calls


def test_fit_uses_the_default_preset_with_its_seeds_and_the_comparison(
    reached: list[dict[str, Any]],
) -> None:
    assert isinstance(run("fit", "moons-tanh").exception, Reached)
    (call,) = reached
    recipe = RECIPES["moons-tanh"]
    assert (call["recipe"], call["preset"], call["hyperparameters"]) == (
        recipe, "default", recipe.default,
    )  # fmt: skip
    assert (call["seeds"], call["compare"]) == (recipe.seeds, True)
    assert call["data"].name == "moons"


def test_fit_uses_preset_seeds_comparison_and_device_of_the_options(
    reached: list[dict[str, Any]],
) -> None:
    result = run(
        "fit", "moons-tanh", "--as", "tutorial", "--seeds", "7", "--no-compare", "--device", "cpu"
    )
    assert isinstance(result.exception, Reached)
    (call,) = reached
    assert call["preset"] == "tutorial"
    assert call["hyperparameters"] == RECIPES["moons-tanh"].tutorial
    assert (call["seeds"], call["compare"], str(call["device"])) == (7, False, "cpu")


def test_fit_uses_the_threads_of_the_option(
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
def test_the_data_folder_is_from_the_option_the_environment_or_the_default(
    by: str, reached: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, moons: Dataset
) -> None:
    folders: list[Path] = []

    def load(name: str, folder: Path) -> Dataset:
        folders.append(folder)
        return moons

    monkeypatch.setattr(training.recipe, "load", load)
    if by != "default":
        monkeypatch.setenv("FITSERVE_DATA_DIR", "/by/environment")
    run("fit", "moons-linear", *(["--data-dir", "/by/option"] if by == "option" else []))
    assert folders == [Path("data" if by == "default" else f"/by/{by}")]
    assert len(reached) == 1


# Errors.


class StartedError(AssertionError):
    """A run was started."""


def fail(*_: object, **__: object) -> None:
    raise StartedError


@pytest.mark.parametrize(
    ("arguments", "message"),
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
        (["mnist-mlp", "--data", "curve"], "mnist-mlp cannot be trained on curve"),
        (["curve-linear", "--data", "moons"], "curve-linear cannot be trained on moons"),
        (["moons-tanh", "--data", "digits"], "moons-tanh cannot be trained on digits"),
        (["curve-linear", "--device", "tpu"], "there is no device 'tpu'; there is cpu"),
        (["curve-linear", "--device", "cuda:99"], "there is no device 'cuda:99'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_call_is_a_one_line_error_before_any_run(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "run_recipe", fail)
    result = run("fit", *arguments, "--repository", str(tmp_path))
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    (line,) = result.output.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["curve-linear", "--lr", "fast"], "--lr"),
        (["curve-linear", "--epochs", "1.5"], "--epochs"),
        (["curve-linear", "--lr-scheduler", "linear"], "--lr-scheduler"),
        (["curve-linear", "--momentum", "0.9"], "--momentum"),
        (["curve-linear", "--seeds", "0"], "--seeds"),
        (["curve-linear", "--as", "mine"], "--as"),
        (["mnist-mlp", "--data", "letters"], "--data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_option_that_cannot_be_parsed_is_named_before_any_run(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "run_recipe", fail)
    result = run("fit", *arguments, "--repository", str(tmp_path))
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert message in result.output
    assert "Traceback" not in result.output


def test_missing_mnist_without_network_is_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: MNIST) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(MNIST, "download", unreachable)
    result = run("fit", "mnist-mlp", "--data-dir", str(tmp_path), "--repository", str(tmp_path))
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith(f"error: MNIST is incomplete in {tmp_path} ")
    assert "--data-dir" in line
    assert "FITSERVE_DATA_DIR" in line


def test_a_diverging_run_is_a_one_line_error_without_a_package(tmp_path: Path) -> None:
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


def test_after_ctrl_c_no_further_recipe_is_started(
    two_packages: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = command_line.run_recipe
    names: list[str] = []
    written: list[str] = []

    def pressed(recipe, *rest, **options):  # type: ignore[no-untyped-def]
        names.append(recipe.name)
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        return original(recipe, *rest, **options)

    def export(result: RunResult, repository: Path) -> ModelPackage:
        written.append(result.recipe.name)
        return ModelRepository(two_packages[0]).get("curve-linear")

    monkeypatch.setattr(command_line, "run_recipe", pressed)
    monkeypatch.setattr(command_line, "export", export)
    result = run(
        "fit", "curve-linear", "moons-linear", "--epochs", "1000000", "--keep-interrupted",
        "--repository", str(tmp_path),
    )  # fmt: skip
    assert result.exit_code == 130, result.output
    assert names == written == ["curve-linear"]


def test_a_read_only_repository_is_a_one_line_error_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(command_line, "run_recipe", never)
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
def test_a_package_that_cannot_be_written_is_a_one_line_error(
    error: Exception, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(training.export, "write_package", fails)
    result = run("fit", "curve-linear", *QUICK, "--epochs", "1", "--repository", str(tmp_path))
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == f"error: {sentence.format(root=tmp_path)}"


# Publishing over an earlier version.


def test_a_worse_result_is_refused_with_both_metrics_and_written_with_replace(
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
    assert (root / ".checkpoints" / "curve-linear.safetensors").is_file()

    result = run(*worse, "--replace", "--repository", str(root))
    assert result.exit_code == 0, result.output
    assert ModelRepository(root).versions("curve-linear") == ["1", "2"]

    better = run("fit", "curve-linear", *QUICK, "--epochs", "3", "--repository", str(root))
    assert better.exit_code == 0, better.output
    assert ModelRepository(root).versions("curve-linear") == ["1", "2", "3"]


def test_a_refused_result_does_not_stop_the_next_recipe(
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


def test_other_data_is_refused_before_any_run_and_accepted_with_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["mnist-mlp", "--data", "digits", *QUICK, "--epochs", "1", "--hidden", "4"]
    shutil.copytree(ROOT / "models" / "mnist-mlp", tmp_path / "mnist-mlp")
    with monkeypatch.context() as patched:
        patched.setattr(command_line, "run_recipe", fail)
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


# In a subprocess.


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "training", *arguments]


def test_a_mistake_in_a_subprocess_is_one_line_without_traceback() -> None:
    completed = subprocess.run(
        command("fit", "curve-linear", "--lr", "-1"), cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert completed.returncode == 1
    assert completed.stdout == ""
    assert completed.stderr == "error: --lr -1.0: input should be greater than 0\n"


@contextmanager
def training_process(
    repository: Path, *more: str
) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], str]]]:
    """Start a long `fit`; yield the process and a function that waits for a line with words."""
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
        raise AssertionError(f"no line with {words!r}:\n{lines}")

    try:
        yield process, wait_for
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def test_the_first_ctrl_c_keeps_the_best_weights_and_the_second_keeps_nothing(
    tmp_path: Path,
) -> None:
    # A background job of a shell ignores Ctrl-C, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (
        training_process(tmp_path / "one") as (one, wait_for_one),
        training_process(tmp_path / "two", "--keep-interrupted") as (two, wait_for_two),
        training_process(tmp_path / "kept", "--keep-interrupted") as (kept, wait_for_kept),
    ):
        for wait_for in (wait_for_one, wait_for_two, wait_for_kept):
            wait_for("epoch 2000/40000: ")
        for process in (one, two, kept):
            process.send_signal(signal.SIGINT)
        wait_for_two("on the test split, mse ")
        while two.poll() is None:  # the export runs; a library such as torch may swallow a Ctrl-C
            two.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                two.wait(timeout=0.2)
        _, stderr = two.communicate(timeout=100)
        assert two.returncode in (130, -signal.SIGINT)  # a shell reports both as 130
        assert "Traceback" not in stderr
        assert ModelRepository(tmp_path / "two").names() == []
        # The snapshot of the first Ctrl-C is all that is kept.
        kept_files = [path.name for path in tmp_path.glob("two/**/*") if path.is_file()]
        assert kept_files == ["default-0.safetensors"]

        wait_for_one("Ctrl-C again stops at once")
        last = wait_for_one("error: curve-tanh: interrupted, no package is written")
        assert "moons-tanh" not in last
        stdout, stderr = one.communicate(timeout=100)
        assert (one.returncode, stdout, stderr) == (130, "", "")

        stdout, stderr = kept.communicate(timeout=100)
        assert kept.returncode == 130, stderr
        assert stdout.startswith("curve-tanh/1 ")
        assert "moons-tanh" not in stderr
    assert ModelRepository(tmp_path / "one").names() == []
    weights, record = read_tensors(tmp_path / "one/.checkpoints/curve-tanh.safetensors")
    assert record["recipe"] == "curve-tanh"
    assert 1 <= record["epoch"] < 40_000
    recipe = RECIPES["curve-tanh"]
    network = recipe.build(recipe.default.override({}), load("curve", Path("data")))
    network.load_state_dict(weights)

    package = ModelRepository(tmp_path / "kept").get("curve-tanh")
    package.verify()
    assert package.card.fit is not None
    assert 1 <= package.card.fit.kept_epoch <= package.card.fit.epochs < 40_000
    assert ModelRepository(tmp_path / "kept").names() == ["curve-tanh"]
