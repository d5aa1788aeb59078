"""Tests of every recipe: its network, its export, and the hyperparameters of the tutorials."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.kinds.tensor_spec import TensorSpec
from models.proofs.parity import ABSOLUTE_TOLERANCE, BATCH_SIZES, check_parity
from models.runtimes.runtime import Arrays, OnnxRuntime, Runtime
from models.runtimes.torch_runtimes import TorchScriptRuntime
from training.datasets import Dataset
from training.exported_files import onnx, torchscript
from training.recipe import Recipe
from training.recipes import RECIPES

SAMPLES = 150


@dataclass(frozen=True)
class Exported:
    """The untrained network of a recipe, and its two files, opened by their serving runtimes."""

    recipe: Recipe
    data: Dataset
    network: nn.Module
    graph: nn.Module
    input: TensorSpec
    output: TensorSpec
    runtimes: dict[str, Runtime]
    samples: Tensor

    def eager(self, inputs: Arrays) -> Arrays:
        """Compute the graph in eager mode."""
        with torch.inference_mode():
            output = self.graph(torch.from_numpy(inputs[self.input.name]))
        return {self.output.name: output.numpy()}


@pytest.fixture(
    scope="module",
    params=[name for name, recipe in RECIPES.items() if recipe.data in ("mnist", "curve", "moons")],
)
def exported(request: pytest.FixtureRequest, digits: Dataset) -> Exported:
    recipe = RECIPES[request.param]
    data = digits if recipe.data == "mnist" else request.getfixturevalue(str(recipe.data))
    torch.manual_seed(0)
    network = recipe.build(recipe.default, data)
    served = recipe.served(network, data)
    (spec,), (output,) = served.inputs, served.outputs
    rows = data.test.inputs[:SAMPLES]
    (samples,) = served.arguments(rows)
    runtimes: dict[str, Runtime] = {
        "onnx": OnnxRuntime(onnx(served, rows[:2]), threads=1),
        "torchscript": TorchScriptRuntime(torchscript(served.module), outputs=[output.name]),
    }
    return Exported(recipe, data, network, served.module, spec, output, runtimes, samples)


def test_every_network_takes_raw_rows_and_returns_logits_or_values(exported: Exported) -> None:
    rows, data = exported.data.train.inputs[:5], exported.data
    outputs = exported.network.eval()(rows)
    places = data.train.targets.shape[1:] if data.task == "classification" else ()
    assert outputs.shape == (len(rows), *places, data.outputs)
    assert outputs.dtype == torch.float32
    assert bool(outputs.isfinite().all())
    assert len(outputs.unique(dim=0)) == len(rows)  # the output depends on the input


def test_every_graph_has_the_tensors_of_its_package(exported: Exported) -> None:
    point = ("point", "FP32", (-1, 2), "probabilities", "FP32", 2)
    name, datatype, shape, output, result, width = {
        "mnist": ("image", "UINT8", (-1, 28, 28), "probabilities", "FP32", 10),
        "curve": ("x", "FP32", (-1, 1), "y", "FP32", 1),
        "moons": point,
        "and": point,
        "xor": point,
        "sums": ("tokens", "INT64", (-1, -1), "sum", "INT64", 1),
        "fashion": ("garment", "UINT8", (-1, 28, 28), "probabilities", "FP32", 10),
        "names": ("letters", "INT64", (-1, -1), "probabilities", "FP32", 27),
    }[str(exported.recipe.data)]
    spec, result_spec = exported.input, exported.output
    assert (spec.name, spec.datatype, spec.shape) == (name, datatype, shape)
    assert (result_spec.name, result_spec.datatype, result_spec.shape) == (
        output,
        result,
        (-1, width),
    )
    assert spec.dtype == exported.samples.numpy().dtype
    for runtime in exported.runtimes.values():
        actual = runtime({name: exported.samples[:3].numpy()})[output]
        assert actual.shape == (3, width)
        if output == "probabilities":
            assert actual.sum(axis=1) == pytest.approx(1, abs=1e-5)
            assert float(actual.min()) >= 0


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_every_export_equals_its_network_at_every_batch_size(exported: Exported, name: Any) -> None:
    record = check_parity(
        exported.eager,
        exported.runtimes[name],
        {exported.input.name: exported.samples.numpy()},
        runtime=name,
        classification=exported.data.task == "classification",
    )
    assert record.samples == len(exported.samples)
    assert record.batch_sizes == BATCH_SIZES == (1, 7, 64)
    assert record.equal_answers == 1
    if exported.data.task == "classification":
        assert record.largest_absolute_difference <= ABSOLUTE_TOLERANCE == 1e-5
    else:
        assert record.largest_relative_difference <= 1e-4


def test_the_recipes_are_these_networks_by_name() -> None:
    assert list(RECIPES) == [
        "mnist-mlp", "mnist-cnn", "curve-linear", "curve-mlp", "curve-tanh", "moons-linear",
        "moons-tanh", "perceptron-and", "perceptron-xor", "xor-mlp", "adder-transformer",
        "flights-mlp", "fashion-cnn", "names-lstm",
    ]  # fmt: skip
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    assert all(recipe.limits and recipe.intended_use for recipe in RECIPES.values())


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("preset", ["tutorial", "default"])
def test_the_mlp_is_784_512_256_10_in_both_presets(digits: Dataset, preset: Any) -> None:
    recipe = RECIPES["mnist-mlp"]
    network = recipe.build(recipe.hyperparameters(preset), digits)
    shapes = [tuple(m.weight.shape) for m in network if isinstance(m, nn.Linear)]
    assert shapes == [(512, 784), (256, 512), (10, 256)]
    assert parameters(network) == 535_818


@pytest.mark.parametrize("preset", ["tutorial", "default"])
def test_the_convolutional_network_has_at_most_400k_parameters_batch_norm_and_dropout(
    digits: Dataset, preset: Any
) -> None:
    recipe = RECIPES["mnist-cnn"]
    network = recipe.build(recipe.hyperparameters(preset), digits)
    assert parameters(network) <= 400_000
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network)
    assert any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in network)


@pytest.mark.parametrize("preset", ["tutorial", "default"])
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("curve-linear", [(1, 1)]),
        ("curve-mlp", [(10, 1), (1, 10)]),
        ("curve-tanh", [(10, 1), (1, 10)]),
        ("moons-linear", [(2, 2)]),
        ("moons-tanh", [(30, 2), (30, 30), (2, 30)]),
        ("perceptron-and", [(1, 2)]),
        ("perceptron-xor", [(1, 2)]),
        ("xor-mlp", [(2, 2), (1, 2)]),
    ],
)
def test_the_small_networks_have_the_layers_of_the_tutorial_in_both_presets(
    name: str, shapes: list[tuple[int, int]], preset: Any, request: pytest.FixtureRequest
) -> None:
    recipe = RECIPES[name]
    data = request.getfixturevalue(str(recipe.data))
    network = recipe.build(recipe.hyperparameters(preset), data)
    assert [tuple(m.weight.shape) for m in network if isinstance(m, nn.Linear)] == shapes
    tanh = sum(isinstance(layer, nn.Tanh) for layer in network)
    assert tanh == (len(shapes) - 1 if name.endswith("tanh") else 0)


NOTHING_ELSE: dict[str, Any] = {
    "weight_decay": 0, "lr_scheduler": "constant", "clip_norm": None, "ema_decay": 0,
    "patience": None, "mixed_precision": False, "keep": "last",
}  # fmt: skip
UNDISTORTED: dict[str, Any] = {
    "rotation": 0, "scaling": 0, "shear": 0, "translation": 0, "elastic": 0, "label_smoothing": 0,
    "mirror": False, "erase": 0, "pixel_mean": 0.5, "pixel_std": 0.5,
}  # fmt: skip
RAW = {"rescale": False, "nguyen_widrow": False}
TUTORIAL: dict[str, dict[str, Any]] = {
    "mnist-mlp": UNDISTORTED
    | {"optimizer": "adam", "lr": 1e-3, "batch_size": 32, "epochs": 5, "hidden": (512, 256)}
    | {"dropout": 0},
    "mnist-cnn": UNDISTORTED | {"optimizer": "adam", "lr": 1e-3, "batch_size": 32, "epochs": 5},
    "curve-linear": RAW
    | {"optimizer": "sgd", "lr": 1e-3, "batch_size": 1, "epochs": 20, "hidden": ()},
    "curve-mlp": RAW
    | {"optimizer": "sgd", "lr": 1e-3, "batch_size": 1, "epochs": 20, "hidden": (10,)}
    | {"activation": "none"},
    "curve-tanh": RAW
    | {"optimizer": "sgd", "lr": 1e-3, "batch_size": 1, "epochs": 200, "hidden": (10,)}
    | {"activation": "tanh"},
    "moons-linear": RAW
    | {"optimizer": "sgd", "lr": 1e-3, "batch_size": 1, "epochs": 50, "hidden": ()},
    "moons-tanh": RAW
    | {"optimizer": "sgd", "lr": 1e-3, "batch_size": 1, "epochs": 300, "hidden": (30, 30)}
    | {"activation": "tanh"},
    "perceptron-and": RAW | {"optimizer": "sgd", "lr": 1, "batch_size": 1, "hidden": ()},
    "perceptron-xor": RAW | {"optimizer": "sgd", "lr": 1, "batch_size": 1, "hidden": ()},
    "xor-mlp": RAW
    | {"optimizer": "sgd", "lr": 0.5, "batch_size": 1, "epochs": 1_000, "hidden": (2,)}
    | {"activation": "sigmoid"},
    "adder-transformer": {"optimizer": "adamw", "lr": 5e-4, "batch_size": 64}
    | {"weight_decay": 0.1, "clip_norm": 1, "width": 48, "layers": 3, "heads": 3},
    "fashion-cnn": UNDISTORTED
    | {"optimizer": "adam", "lr": 1e-3, "batch_size": 64, "epochs": 5, "dropout": 0},
    "names-lstm": {"optimizer": "adam", "lr": 1e-3, "batch_size": 64, "epochs": 5}
    | {"dropout": 0, "unreadable": 0},
}


@pytest.mark.parametrize("name", TUTORIAL)
def test_the_tutorial_preset_matches_the_tutorial(name: str) -> None:
    hyperparameters = RECIPES[name].hyperparameters("tutorial")
    expected = NOTHING_ELSE | TUTORIAL[name]
    values = hyperparameters.model_dump()
    assert {option: values[option] for option in expected} == expected
    assert hyperparameters != RECIPES[name].hyperparameters("default")


def test_image_recipes_accept_any_images_and_column_recipes_only_their_own_data(
    digits: Dataset, curve: Dataset, moons: Dataset, xor: Dataset
) -> None:
    for name, recipe in RECIPES.items():
        images = name.startswith(("mnist", "fashion"))
        assert recipe.accepts(digits) == images
        for data in (curve, moons, xor):
            assert recipe.accepts(data) == (recipe.data == data.name)
        assert (recipe.augment is not None) == (images or name == "names-lstm")


def test_rescaling_maps_inputs_to_one_range_and_outputs_back(curve: Dataset) -> None:
    recipe = RECIPES["curve-tanh"]
    network = recipe.build(recipe.default, curve)
    first, last = network[0], network[-1]
    scaled = first(curve.train.inputs)
    assert (float(scaled.min()), float(scaled.max())) == pytest.approx((-1, 1))
    back = last(torch.tensor([[-1.0], [1.0]])).flatten().tolist()
    ends = [float(curve.train.targets.min()), float(curve.train.targets.max())]
    assert back == pytest.approx(ends, abs=1e-4)


def test_nguyen_widrow_initialisation_follows_its_hyperparameter(curve: Dataset) -> None:
    recipe = RECIPES["curve-tanh"]

    def first_biases(**values: Any) -> Tensor:
        torch.manual_seed(0)
        network = recipe.build(recipe.default.override(values), curve)
        return next(m for m in network if isinstance(m, nn.Linear)).bias.detach()

    assert not torch.equal(first_biases(nguyen_widrow=True), first_biases(nguyen_widrow=False))
