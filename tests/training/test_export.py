"""What an export promises: a proved package with all of its figures, or none at all."""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_format
import pytest
import torch

import training.export
from models.__main__ import main as models_command
from models.package import ModelPackage
from models.parity import ParityError
from models.repository import ModelRepository
from models.runtimes import open_runtime
from training.datasets import Dataset, Split
from training.export import ExportError, export
from training.fitting import Fitted, fit_recipe
from training.recipes import RECIPES

CPU = torch.device("cpu")
SEEDS = 2


def fitted_on(name: str, data: Dataset, tutorial: dict[str, Any], **values: Any) -> Fitted:
    recipe = RECIPES[name]
    recipe = replace(recipe, tutorial=recipe.tutorial.override(tutorial))
    return fit_recipe(
        recipe, "default", recipe.default.override(values), data, seeds=SEEDS, compare=True,
        device=CPU, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def line(curve: Dataset) -> Fitted:
    return fitted_on("curve-linear", curve, {"epochs": 1})


@pytest.fixture(scope="module")
def points(moons: Dataset) -> Fitted:
    test = Split(moons.test.inputs[:1_000], moons.test.targets[:1_000])
    return fitted_on("moons-tanh", replace(moons, test=test), {"epochs": 1}, epochs=30)


@pytest.fixture(scope="module")
def pictures(digits: Dataset) -> Fitted:
    """A small perceptron on what passes for MNIST: the digits, rows reversed, by that name."""
    brief = {"epochs": 1, "hidden": (16,)}
    data = replace(
        digits,
        name="mnist",
        test=Split(digits.test.inputs.flip(0), digits.test.targets.flip(0)),
    )
    return fitted_on("mnist-mlp", data, brief, epochs=2, hidden=(32,), batch_size=32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(scope="module")
def packages(
    repository: Path, line: Fitted, points: Fitted, pictures: Fitted
) -> dict[str, tuple[Fitted, ModelPackage]]:
    """Each fitted network with its package."""
    return {
        fitted.recipe.name: (fitted, export(fitted, repository))
        for fitted in (line, points, pictures)
    }


@pytest.fixture(params=["curve-linear", "moons-tanh", "mnist-mlp"])
def exported(
    request: pytest.FixtureRequest, packages: dict[str, tuple[Fitted, ModelPackage]]
) -> tuple[Fitted, ModelPackage]:
    return packages[request.param]


@pytest.fixture
def quick_onnx(
    packages: dict[str, tuple[Fitted, ModelPackage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spare a test the slow ONNX export: the line's file is the one that was exported before."""
    content = packages["curve-linear"][1].load("model.onnx")
    monkeypatch.setattr(training.export, "onnx", lambda *_: content)


def test_the_package_is_verified_and_both_runtimes_give_the_recorded_prediction(
    exported: tuple[Fitted, ModelPackage], repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, package = exported
    name = package.card.name
    again = ModelRepository(repository).get(name, "1")
    again.verify()
    assert again.card == package.card
    assert again.card.runtimes == ("onnx", "torchscript")
    assert models_command(["--repository", str(repository), "verify", name]) == 0
    assert capsys.readouterr().out.startswith(f"right    {name}/1: onnx, torchscript")


@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
def test_a_package_takes_raw_rows_and_answers_as_its_network_does(
    exported: tuple[Fitted, ModelPackage], runtime: Any
) -> None:
    fitted, package = exported
    opened = open_runtime(package, runtime, threads=1)
    inputs = fitted.data.test.inputs[:33]
    (given,), (wanted,) = package.card.inputs, package.card.outputs
    assert inputs.numpy().dtype == given.dtype  # bytes for pictures: nothing is scaled before
    answer = opened({given.name: inputs.numpy()})[wanted.name]
    with torch.inference_mode():
        outputs = fitted.network(inputs)
    expected = outputs.softmax(dim=1) if fitted.data.labels else outputs
    np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5, rtol=1e-4)


def test_the_preprocessing_of_pictures_is_inside_the_graph(
    packages: dict[str, tuple[Fitted, ModelPackage]],
) -> None:
    pictures, package = packages["mnist-mlp"]
    image = pictures.data.test.inputs[:5]
    assert image.dtype == torch.uint8
    normalised = (image.float() / 255 - 0.1307) / 0.3081
    with torch.inference_mode():
        by_hand = pictures.network[1:](normalised.unsqueeze(1)).softmax(dim=1)
    for runtime in package.card.runtimes:
        answer = open_runtime(package, runtime, threads=1)({"image": image.numpy()})
        np.testing.assert_allclose(answer["probabilities"], by_hand.numpy(), atol=1e-5)


def test_the_onnx_file_is_one_file_with_a_dynamic_batch(
    exported: tuple[Fitted, ModelPackage],
) -> None:
    _, package = exported
    model = onnx_format.load_from_string(package.load("model.onnx"))
    onnx_format.checker.check_model(model)
    for tensor in (*model.graph.input, *model.graph.output):
        assert tensor.type.tensor_type.shape.dim[0].dim_param
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    names = {path.name for path in package.path.iterdir()}
    assert names == {"card.json", "README.md", "model.onnx", "model.pt", "report"}


def test_no_file_tells_where_on_which_machine_it_was_made(
    exported: tuple[Fitted, ModelPackage], root: Path
) -> None:
    package = exported[1]
    for file in package.card.files:
        content = package.load(file)
        for told in (str(root).encode(), b"site-packages", str(Path.home()).encode() + b"/"):
            assert told not in content, f"{file} holds {told!r}"


def test_the_card_holds_the_parity_proof_of_both_files(
    exported: tuple[Fitted, ModelPackage],
) -> None:
    fitted, package = exported
    assert {record.runtime for record in package.card.parity} == {"onnx", "torchscript"}
    for record in package.card.parity:
        assert record.samples == len(fitted.data.test)
        assert record.batch_sizes == (1, 7, 64)
        assert record.equal_answers == 1
        if fitted.data.labels:
            assert record.largest_absolute_difference <= 1e-5
        else:
            assert record.largest_relative_difference <= 1e-4


def test_the_card_says_how_the_network_was_fitted(exported: tuple[Fitted, ModelPackage]) -> None:
    fitted, package = exported
    fit = package.card.fit
    assert fit is not None
    assert (fit.recipe, fit.setting) == (fitted.recipe.name, "default")
    kind = type(fitted.settings)
    assert kind.model_validate(fit.hyperparameters) == fitted.settings
    assert fit.seed == fitted.settings.seed
    assert fit.data == fitted.data.record()
    assert fit.parameter_count == sum(p.numel() for p in fitted.network.parameters())
    assert fit.epochs == fitted.settings.epochs
    assert fitted.history.kept is not None
    assert fit.kept_epoch == fitted.history.kept.epoch
    assert fit.seconds == fitted.history.seconds > 0
    assert fit.device.startswith("cpu")
    assert {"python", "torch", "onnx", "onnxruntime", "numpy"} <= set(fit.libraries)
    assert torch.__version__.startswith(fit.libraries["torch"].split("+")[0])


def test_the_card_names_the_layers(exported: tuple[Fitted, ModelPackage]) -> None:
    _, package = exported
    assert package.card.fit is not None
    assert (
        package.card.fit.network
        == {
            "curve-linear": "Affine, Linear(1, 1), Affine",
            "moons-tanh": "Affine, Linear(2, 30), Tanh, Linear(30, 30), Tanh, Linear(30, 2)",
            "mnist-mlp": "Pixels, Flatten, Linear(784, 32), ReLU, Linear(32, 10)",
        }[package.card.name]
    )


def test_the_card_gives_the_figures_of_both_settings_over_all_seeds(
    exported: tuple[Fitted, ModelPackage],
) -> None:
    fitted, package = exported
    assert [figures.setting for figures in package.card.seeds] == ["default", "tutorial"]
    for figures in package.card.seeds:
        assert figures.metric == fitted.recipe.metric
        assert len(figures.values) == len(figures.seeds) == SEEDS
        assert figures.mean == pytest.approx(np.mean(figures.values))
        assert figures.samples == len(fitted.data.test)
    assert fitted.metric in package.card.seeds[0].values


def test_the_card_holds_the_figures_of_test_and_validation_and_for_mnist_of_the_digits(
    exported: tuple[Fitted, ModelPackage],
) -> None:
    fitted, package = exported
    name = fitted.data.name
    sizes = fitted.data.record().splits
    wanted = [(name, "test", sizes.test), (name, "validation", sizes.validation)]
    if name == "mnist":
        wanted.append(("digits", "all", 1_797))
    assert [(e.data, e.split, e.samples) for e in package.card.evaluations] == wanted
    for evaluation in package.card.evaluations:
        if fitted.data.labels:
            assert {
                "accuracy", "negative_log_likelihood", "expected_calibration_error",
            } <= set(evaluation.metrics)  # fmt: skip
            assert [entry.label for entry in evaluation.classes] == list(fitted.data.labels)
            assert sum(map(sum, evaluation.confusion)) == evaluation.samples
        else:
            assert {"mae", "rmse", "r2", "mse"} <= set(evaluation.metrics)


def test_the_card_says_what_the_network_is_for_and_what_it_is_not(
    exported: tuple[Fitted, ModelPackage],
) -> None:
    fitted, package = exported
    card = package.card
    assert card.summary == fitted.recipe.summary
    assert card.intended_use == fitted.recipe.intended_use
    assert card.limits == fitted.recipe.limits
    assert card.task == ("classification" if fitted.data.labels else "regression")
    page = package.load("README.md").decode()
    assert card.summary in page
    assert all(limit in page for limit in card.limits)
    for name in card.files:
        if name.endswith(".png"):
            assert f"({name})" in page


def test_the_recorded_prediction_shows_no_image_of_mnist(
    exported: tuple[Fitted, ModelPackage], digits: Dataset
) -> None:
    """MNIST's images are not ours to hand on; scikit-learn's digits are."""
    fitted, package = exported
    recorded = package.card.example.inputs[package.card.inputs[0].name].array()
    shown = digits if fitted.data.name == "mnist" else fitted.data
    np.testing.assert_array_equal(recorded, shown.test.inputs[:2].numpy())
    if shown is digits:
        assert not np.array_equal(recorded, fitted.data.test.inputs[:2].numpy())


@pytest.mark.usefixtures("quick_onnx")
def test_a_second_export_is_the_next_version(line: Fitted, tmp_path: Path) -> None:
    assert export(line, tmp_path).label == "curve-linear/1"
    assert export(line, tmp_path).label == "curve-linear/2"
    assert ModelRepository(tmp_path).versions("curve-linear") == ["1", "2"]


def sabotaged(change: Callable[[torch.nn.Module], None]) -> Callable[..., bytes]:
    """The real ONNX export, of a network that was changed behind its back."""
    original = training.export.onnx

    def export_another(graph: torch.nn.Module, *rest: Any) -> bytes:
        other = copy.deepcopy(graph)
        with torch.no_grad():
            change(other)
        return original(other, *rest)

    return export_another


def scaled_by(factor: float) -> Callable[[torch.nn.Module], None]:
    def change(graph: torch.nn.Module) -> None:
        for parameter in graph.parameters():
            parameter.mul_(factor)

    return change


def everything_under(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()] if root.exists() else []


def test_a_file_that_is_slightly_another_network_is_no_package(
    points: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little for the recorded prediction to notice: the parity proof does."""
    monkeypatch.setattr(training.export, "onnx", sabotaged(scaled_by(1 + 1e-4)))
    with pytest.raises(ParityError) as caught:
        export(points, tmp_path)
    message = str(caught.value)
    assert message.startswith("onnx, batch size 1, output probabilities: sample ")
    assert "differs by " in message
    assert "more than 1e-05" in message
    assert everything_under(tmp_path) == []


def test_a_file_that_is_quite_another_network_is_no_package(
    line: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.export, "onnx", sabotaged(scaled_by(2)))
    with pytest.raises(ExportError, match=r"curve-linear, onnx: y differs .* by \d"):
        export(line, tmp_path)
    assert everything_under(tmp_path) == []


def test_a_torchscript_file_that_is_another_network_is_no_package(
    points: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = training.export.torchscript

    def another(graph: torch.nn.Module) -> bytes:
        other = copy.deepcopy(graph)
        with torch.no_grad():
            scaled_by(1 + 1e-4)(other)
        return original(other)

    monkeypatch.setattr(training.export, "torchscript", another)
    with pytest.raises(ParityError, match=r"torchscript, .* differs by "):
        export(points, tmp_path)
    assert everything_under(tmp_path) == []


def dies(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("quick_onnx")
@pytest.mark.parametrize("place", ["pictures", "disk", "rename"])
def test_an_export_that_dies_leaves_nothing(
    place: str, line: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "pictures":
        monkeypatch.setattr(training.export.plots, "report", dies)
    elif place == "disk":
        original, calls = os.fsync, []

        def full_at_the_third_file(descriptor: int) -> None:
            calls.append(descriptor)
            dies() if len(calls) == 3 else original(descriptor)

        monkeypatch.setattr(os, "fsync", full_at_the_third_file)
    else:
        monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises((OSError, ExportError), match="No space left"):
        export(line, tmp_path)
    assert list(tmp_path.iterdir()) == []
