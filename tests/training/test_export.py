"""Tests of the export: a verified package with all of its metrics, or no package."""

import copy
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_format
import pytest
import torch
from torch import nn

import training.export
import training.exported_files
from models.__main__ import main as models_command
from models.package.model_package import ModelPackage
from models.package.repository import SHIPPED, ModelRepository
from models.proofs.parity import ParityError
from models.runtimes.loading import open_runtime
from training import datasets
from training.datasets import Dataset, Split
from training.export import ExportError, export
from training.networks.feedforward import MirrorAveraged, Pixels
from training.networks.recurrent import NextToken
from training.recipes import RECIPES
from training.runs import RunResult, run_recipe
from training.served import Served
from training.tables.network import Categories

CPU = torch.device("cpu")
SEEDS = 2


def run_on(name: str, data: Dataset, tutorial: dict[str, Any], **values: Any) -> RunResult:
    recipe = RECIPES[name]
    recipe = replace(recipe, tutorial=recipe.tutorial.override(tutorial))
    return run_recipe(
        recipe, "default", recipe.default.override(values), data, seeds=SEEDS, compare=True,
        device=CPU, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def line(curve: Dataset) -> RunResult:
    return run_on("curve-linear", curve, {"epochs": 1})


@pytest.fixture(scope="module")
def points(moons: Dataset) -> RunResult:
    test = Split(moons.test.inputs[:1_000], moons.test.targets[:1_000])
    return run_on("moons-tanh", replace(moons, test=test), {"epochs": 1}, epochs=30)


@pytest.fixture(scope="module")
def pictures(digits: Dataset) -> RunResult:
    """Return a small MLP, trained on the digits in reverse order under the name of MNIST."""
    tutorial = {"epochs": 1, "hidden": (16,)}
    data = replace(
        digits,
        name="mnist",
        external=datasets.digits,
        redistributable=False,
        test=Split(digits.test.inputs.flip(0), digits.test.targets.flip(0)),
    )
    return run_on("mnist-mlp", data, tutorial, epochs=2, hidden=(32,), batch_size=32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(scope="module")
def packages(
    repository: Path, line: RunResult, points: RunResult, pictures: RunResult
) -> dict[str, tuple[RunResult, ModelPackage]]:
    """Return each result with its package."""
    return {
        result.recipe.name: (result, export(result, repository))
        for result in (line, points, pictures)
    }


@pytest.fixture(params=["curve-linear", "moons-tanh", "mnist-mlp"])
def exported(
    request: pytest.FixtureRequest, packages: dict[str, tuple[RunResult, ModelPackage]]
) -> tuple[RunResult, ModelPackage]:
    return packages[request.param]


@pytest.fixture
def quick_onnx(
    packages: dict[str, tuple[RunResult, ModelPackage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replace the slow ONNX export of the line by the file that was exported before."""
    content = packages["curve-linear"][1].load("model.onnx")
    monkeypatch.setattr(training.exported_files, "onnx", lambda *_: content)


def test_the_package_is_verified_on_both_runtimes(
    exported: tuple[RunResult, ModelPackage], repository: Path, capsys: pytest.CaptureFixture[str]
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
def test_a_package_takes_raw_rows_and_returns_the_outputs_of_its_network(
    exported: tuple[RunResult, ModelPackage], runtime: Any
) -> None:
    result, package = exported
    opened = open_runtime(package, runtime, threads=1)
    inputs = result.data.test.inputs[:33]
    (given,), (wanted,) = package.card.inputs, package.card.outputs
    assert inputs.numpy().dtype == given.dtype  # bytes for images: the client scales nothing
    output = opened({given.name: inputs.numpy()})[wanted.name]
    with torch.inference_mode():
        outputs = result.network(inputs)
    expected = outputs.softmax(dim=1) if result.data.task == "classification" else outputs
    np.testing.assert_allclose(output, expected.numpy(), atol=1e-5, rtol=1e-4)


def test_the_graph_includes_the_preprocessing_of_images(
    packages: dict[str, tuple[RunResult, ModelPackage]],
) -> None:
    pictures, package = packages["mnist-mlp"]
    image = pictures.data.test.inputs[:5]
    assert image.dtype == torch.uint8
    normalised = (image.float() / 255 - 0.1307) / 0.3081
    with torch.inference_mode():
        by_hand = pictures.network[1:](normalised.unsqueeze(1)).softmax(dim=1)
    for runtime in package.card.runtimes:
        output = open_runtime(package, runtime, threads=1)({"image": image.numpy()})
        np.testing.assert_allclose(output["probabilities"], by_hand.numpy(), atol=1e-5)


def test_the_onnx_file_is_a_single_file_with_a_dynamic_batch(
    exported: tuple[RunResult, ModelPackage],
) -> None:
    _, package = exported
    model = onnx_format.load_from_string(package.load("model.onnx"))
    onnx_format.checker.check_model(model)
    for tensor in (*model.graph.input, *model.graph.output):
        assert tensor.type.tensor_type.shape.dim[0].dim_param
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    names = {path.name for path in package.path.iterdir()}
    assert names == {"card.json", "README.md", "model.onnx", "model.pt", "report"}


def test_no_file_contains_a_path_of_the_machine(
    exported: tuple[RunResult, ModelPackage], root: Path
) -> None:
    package = exported[1]
    for file in package.card.files:
        content = package.load(file)
        for secret in (str(root).encode(), b"site-packages", str(Path.home()).encode() + b"/"):
            assert secret not in content, f"{file} contains {secret!r}"


def test_the_card_has_the_parity_of_both_files(
    exported: tuple[RunResult, ModelPackage],
) -> None:
    result, package = exported
    assert {record.runtime for record in package.card.parity} == {"onnx", "torchscript"}
    for record in package.card.parity:
        assert record.samples == len(result.data.test)
        assert record.batch_sizes == (1, 7, 64)
        assert record.equal_answers == 1
        if result.data.task == "classification":
            assert record.largest_absolute_difference <= 1e-5
        else:
            assert record.largest_relative_difference <= 1e-4


def test_the_card_records_how_the_network_was_trained(
    exported: tuple[RunResult, ModelPackage],
) -> None:
    result, package = exported
    fit = package.card.fit
    assert fit is not None
    assert (fit.recipe, fit.setting) == (result.recipe.name, "default")
    kind = type(result.hyperparameters)
    assert kind.model_validate(fit.hyperparameters) == result.hyperparameters
    assert fit.seed == result.hyperparameters.seed
    assert fit.data == result.data.record()
    assert fit.parameter_count == sum(p.numel() for p in result.network.parameters())
    assert fit.epochs == result.hyperparameters.epochs
    assert result.history.kept is not None
    assert fit.kept_epoch == result.history.kept.epoch
    assert fit.seconds == result.history.seconds > 0
    assert fit.device.startswith("cpu")
    assert {"python", "torch", "onnx", "onnxruntime", "numpy"} <= set(fit.libraries)
    assert torch.__version__.startswith(fit.libraries["torch"].split("+")[0])


def test_the_card_lists_the_layers(exported: tuple[RunResult, ModelPackage]) -> None:
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


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (
            MirrorAveraged(
                nn.Sequential(Pixels(0.5, 0.5), nn.Sequential(nn.Linear(4, 2), nn.Identity()))
            ),
            "MirrorAveraged(Pixels, Linear(4, 2))",
        ),
        (
            NextToken(28, 8, 16, 28, 0.5),
            "NextToken(Embedding(28, 8), LSTM(8, 16), Dropout(0.5), Linear(16, 28))",
        ),
        (Categories([3, 9], 0.0), "Categories(Embedding(3, 3), Embedding(9, 5))"),
        (
            nn.Sequential(Pixels(0.5, 0.5), MirrorAveraged(nn.Sequential(nn.ReLU(), nn.Tanh()))),
            "Pixels, MirrorAveraged(ReLU, Tanh)",
        ),
        (
            MirrorAveraged(nn.Sequential(*(nn.ReLU() for _ in range(100)))),
            "MirrorAveraged",
        ),
    ],
)
def test_the_layers_of_a_wrapped_network_are_listed(network: nn.Module, text: str) -> None:
    assert training.export._layers(network) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "adder-transformer",
            r"TokensAndPlaces\(.*\), Block\(.*\), Block\(.*\), .*, Linear\(64, 10\)",
        ),
        ("flights-mlp", r"TableNetwork\(Numbers, Categories\(.*\), .*, Linear\(32, 1\), Affine\)"),
        ("names-lstm", r"NextToken\(Embedding\(29, 32\), LSTM\(32, 128\), .*\)"),
    ],
)
def test_the_card_of_a_shipped_package_lists_the_layers_of_a_wrapped_network(
    name: str, text: str
) -> None:
    fit = ModelRepository(SHIPPED).get(name).card.fit
    assert fit is not None
    assert re.fullmatch(text, fit.network)


def test_the_card_has_the_metric_of_both_presets_over_all_seeds(
    exported: tuple[RunResult, ModelPackage],
) -> None:
    result, package = exported
    assert [figures.setting for figures in package.card.seeds] == ["default", "tutorial"]
    for figures in package.card.seeds:
        assert figures.metric == result.recipe.metric
        assert len(figures.values) == len(figures.seeds) == SEEDS
        assert figures.mean == pytest.approx(np.mean(figures.values))
        assert figures.samples == len(result.data.test)
    assert result.metric in package.card.seeds[0].values


def test_the_card_has_the_metrics_of_test_validation_and_external_test(
    exported: tuple[RunResult, ModelPackage],
) -> None:
    result, package = exported
    name = result.data.name
    sizes = result.data.record().splits
    expected = [(name, "test", sizes.test), (name, "validation", sizes.validation)]
    if name == "mnist":
        expected.append(("digits", "all", 1_797))
    assert [(e.data, e.split, e.samples) for e in package.card.evaluations] == expected
    for evaluation in package.card.evaluations:
        if result.data.task == "classification":
            assert {
                "accuracy", "negative_log_likelihood", "expected_calibration_error",
            } <= set(evaluation.metrics)  # fmt: skip
            assert [entry.label for entry in evaluation.classes] == list(result.data.labels)
            assert sum(map(sum, evaluation.confusion)) == evaluation.samples
        else:
            assert {"mae", "rmse", "r2", "mse"} <= set(evaluation.metrics)


def test_the_card_has_intended_use_and_limits(
    exported: tuple[RunResult, ModelPackage],
) -> None:
    result, package = exported
    card = package.card
    assert card.summary == result.recipe.summary
    assert card.intended_use == result.recipe.intended_use
    assert card.limits == result.recipe.limits
    assert card.task == result.data.task
    page = package.load("README.md").decode()
    assert card.summary in page
    assert all(limit in page for limit in card.limits)
    for name in card.files:
        if name.endswith(".png"):
            assert f"({name})" in page


def test_the_example_has_no_image_of_mnist(
    exported: tuple[RunResult, ModelPackage], digits: Dataset
) -> None:
    """MNIST's images are not ours to redistribute; scikit-learn's digits are."""
    result, package = exported
    recorded = package.card.example.inputs[package.card.inputs[0].name].array()
    source = digits if result.data.name == "mnist" else result.data
    np.testing.assert_array_equal(recorded, source.test.inputs[:2].numpy())
    if source is digits:
        assert not np.array_equal(recorded, result.data.test.inputs[:2].numpy())


@pytest.mark.usefixtures("quick_onnx")
def test_a_second_export_is_the_next_version(line: RunResult, tmp_path: Path) -> None:
    assert export(line, tmp_path).label == "curve-linear/1"
    assert export(line, tmp_path).label == "curve-linear/2"
    assert ModelRepository(tmp_path).versions("curve-linear") == ["1", "2"]


def changed_export(change: Callable[[torch.nn.Module], None]) -> Callable[..., bytes]:
    """Return an ONNX export that exports a changed copy of the network."""
    original = training.exported_files.onnx

    def export_another(served: Served, *rest: Any) -> bytes:
        other = copy.deepcopy(served.module)
        with torch.no_grad():
            change(other)
        return original(replace(served, module=other), *rest)

    return export_another


def scaled_by(factor: float) -> Callable[[torch.nn.Module], None]:
    def change(graph: torch.nn.Module) -> None:
        for parameter in graph.parameters():
            parameter.mul_(factor)

    return change


def everything_under(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()] if root.exists() else []


def test_an_onnx_file_of_a_slightly_different_network_is_refused(
    points: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The difference is too small for the example, and large enough for the parity check."""
    monkeypatch.setattr(training.exported_files, "onnx", changed_export(scaled_by(1 + 1e-4)))
    with pytest.raises(ParityError) as caught:
        export(points, tmp_path)
    message = str(caught.value)
    assert message.startswith("onnx, batch size 1, output probabilities: sample ")
    assert "differs by " in message
    assert "more than 1e-05" in message
    assert everything_under(tmp_path) == []


def test_an_onnx_file_of_a_very_different_network_is_refused(
    line: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.exported_files, "onnx", changed_export(scaled_by(2)))
    with pytest.raises(ExportError, match=r"curve-linear, onnx: y differs .* by \d"):
        export(line, tmp_path)
    assert everything_under(tmp_path) == []


def test_a_torchscript_file_of_a_different_network_is_refused(
    points: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = training.exported_files.torchscript

    def another(graph: torch.nn.Module) -> bytes:
        other = copy.deepcopy(graph)
        with torch.no_grad():
            scaled_by(1 + 1e-4)(other)
        return original(other)

    monkeypatch.setattr(training.exported_files, "torchscript", another)
    with pytest.raises(ParityError, match=r"torchscript, .* differs by "):
        export(points, tmp_path)
    assert everything_under(tmp_path) == []


def fail(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("quick_onnx")
@pytest.mark.parametrize("step", ["pictures", "disk", "rename"])
def test_an_export_that_fails_leaves_no_file(
    step: str, line: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if step == "pictures":
        monkeypatch.setattr(training.export.plots, "report", fail)
    elif step == "disk":
        original, calls = os.fsync, []

        def full_at_the_third_file(descriptor: int) -> None:
            calls.append(descriptor)
            fail() if len(calls) == 3 else original(descriptor)

        monkeypatch.setattr(os, "fsync", full_at_the_third_file)
    else:
        monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises((OSError, ExportError), match="No space left"):
        export(line, tmp_path)
    assert list(tmp_path.iterdir()) == []


class _LargestPixel(torch.nn.Module):
    """Reads the largest number of a row, which ONNX Runtime finds otherwise beside a NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.amax(dim=1, keepdim=True))


def test_rows_that_are_not_proved_to_be_apart_are_not_batched(
    points: RunResult, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    card = export(replace(points, network=_LargestPixel().eval()), tmp_path).card
    assert card.batching == "none"
    assert any("Each request is computed alone" in limit for limit in card.limits)
    assert points.recipe.limits == card.limits[: len(points.recipe.limits)]
