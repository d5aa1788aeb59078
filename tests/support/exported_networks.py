"""Five networks of other libraries, in the files that these libraries export."""

import io
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Arrays = Mapping[str, NDArray[Any]]
DIGITS = tuple("0123456789")
SPECIES = ("setosa", "versicolor", "virginica")


@dataclass(frozen=True)
class ExportedNetwork:
    """The files of a network, with rows and the outputs of its own library."""

    name: str
    onnx: Path
    inputs: Arrays
    outputs: Arrays
    torchscript: Path | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Added:
    """A repository to which the networks were added, and the networks by package name."""

    root: Path
    networks: Mapping[str, ExportedNetwork]


class TwoInputs(nn.Module):
    """Maps a picture and three facts, FP32 and INT64, to one number."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Linear(64, 4)
        self.facts = nn.Linear(3, 4)
        self.last = nn.Linear(4, 1)

    def forward(self, picture: Tensor, facts: Tensor) -> Tensor:
        """Return numbers [N, 1] of pictures [N, 8, 8] and facts [N, 3]."""
        summed = self.picture(picture.flatten(1)) + self.facts(facts.float())
        return self.last(summed.tanh())


class OneAtATime(nn.Module):
    """Maps four numbers to two."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, signal: Tensor) -> Tensor:
        """Return numbers [N, 2] of signals [N, 4]."""
        return self.linear(signal).relu()


def keras_digits(folder: Path) -> ExportedNetwork:
    """Export a convolutional classifier of Keras on its torch backend, with initial weights."""
    os.environ["KERAS_BACKEND"] = "torch"
    os.environ["KERAS_HOME"] = str(folder)  # Keras writes its settings there
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1), name="pixels"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1)).astype(np.float32)
    responses = model.predict(pixels, verbose=0)
    path = folder / "keras-digits.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # warnings of the tracer about shapes, which are constant here
        model.export(path, format="onnx", verbose=False)
    (output,) = _outputs(path)
    return ExportedNetwork(
        "keras-digits", path, {"pixels": pixels}, {output: responses}, labels=DIGITS
    )


def resnet(folder: Path) -> ExportedNetwork:
    """Export torchvision's ResNet-18 with its initial weights, as ONNX and as TorchScript."""
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = resnet18(weights=None).eval()
    images = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    path = _exported(network, folder / "resnet.onnx", {"x": images}, ["logits"], "batch")
    module = folder / "resnet.pt"
    module.write_bytes(scripted(network))
    expected = {"logits": network(torch.from_numpy(images)).detach().numpy()}
    return ExportedNetwork("resnet", path, {"x": images}, expected, torchscript=module)


def iris_pipeline(folder: Path) -> ExportedNetwork:
    """Export a fitted pipeline of scikit-learn with two outputs: class and probabilities."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    flowers, species = load_iris(return_X_y=True)
    flowers = flowers.astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(flowers, species)
    path = folder / "iris.onnx"
    converted = to_onnx(pipeline, flowers[:1], options={"zipmap": False})
    path.write_bytes(converted.SerializeToString())
    rows = flowers[::10]
    expected = {
        "label": pipeline.predict(rows),
        "probabilities": pipeline.predict_proba(rows).astype(np.float32),
    }
    return ExportedNetwork("iris", path, {"X": rows}, expected, labels=SPECIES)


def two_inputs(folder: Path) -> ExportedNetwork:
    """Export a network of two inputs with different shapes and datatypes."""
    random = np.random.default_rng(0)
    rows = {
        "picture": random.normal(size=(6, 8, 8)).astype(np.float32),
        "facts": random.integers(0, 10, (6, 3)),
    }
    network = _seeded(TwoInputs())
    path = _exported(network, folder / "two-inputs.onnx", rows, ["score"], "batch")
    expected = network(*map(torch.from_numpy, rows.values())).detach().numpy()
    return ExportedNetwork("two-inputs", path, rows, {"score": expected})


def one_at_a_time(folder: Path) -> ExportedNetwork:
    """Export a network with a fixed batch of one row."""
    rows = {"signal": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)}
    network = _seeded(OneAtATime())
    path = _exported(
        network, folder / "one-at-a-time.onnx", {"signal": rows["signal"][:1]}, ["answer"]
    )
    expected = network(torch.from_numpy(rows["signal"])).detach().numpy()
    return ExportedNetwork("one-at-a-time", path, rows, {"answer": expected})


ALL = (keras_digits, resnet, iris_pipeline, two_inputs, one_at_a_time)


def scripted(network: nn.Module) -> bytes:
    """Return the network as TorchScript."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated")
        torch.jit.save(torch.jit.script(network), stream)
    return stream.getvalue()


def _seeded(network: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in network.parameters():
            weights.normal_(generator=random)
    return network.eval()


def _exported(
    network: nn.Module, path: Path, rows: Arrays, outputs: list[str], batch: str | None = None
) -> Path:
    """Export with torch; without a name for the batch, for exactly these rows."""
    free = {0: torch.export.Dim(batch)} if batch else None
    torch.onnx.export(
        network,
        tuple(map(torch.from_numpy, rows.values())),
        path,
        input_names=list(rows),
        output_names=outputs,
        dynamic_shapes=dict.fromkeys(rows, free) if batch else None,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return path


def _outputs(path: Path) -> list[str]:
    import onnxruntime

    return [output.name for output in onnxruntime.InferenceSession(path).get_outputs()]
