"""The examples of the playground: test digits, hard digits, the curve, and points by data set.

`python -m training.playground_examples` writes `service/api/static/playground/examples.json`
from the data sets and the packages `mnist-mlp` and `mnist-cnn`. A page cannot hold 10,000 digits:
the file has the first test digit of each class, and up to 14 digits that the two networks classify
differently.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from torch import Tensor

from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from training.datasets import DataError, Split, and_table, curve, mnist, moons, xor_table

NETWORKS = ("mnist-mlp", "mnist-cnn")
HARD = 14
# Below this difference of the two highest probabilities, the answer may depend on the machine.
MARGIN = 0.05
SOURCE = (
    "digits, hard: the test split of MNIST, copyright Yann LeCun and Corinna Cortes, made from "
    "NIST's data; Creative Commons Attribution-ShareAlike 3.0"
)
FILE = Path("service/api/static/playground/examples.json")


def examples(digits: Split, repository: ModelRepository) -> dict[str, Any]:
    """Return the content of the file.

    Args:
        digits: MNIST's test split, uint8 [N, 28, 28].
        repository: the repository with the two networks.
    """
    labels = digits.targets.tolist()
    on_curve = curve().train
    return {
        "source": SOURCE,
        "digits": [_example(digits, labels.index(label)) for label in sorted(set(labels))],
        "hard": [_example(digits, index) for index in _evenly(disagreements(digits, repository))],
        "curve": {
            "x": _rounded(on_curve.inputs[:, 0], 3),
            "y": _rounded(on_curve.targets[:, 0], 3),
        },
        **{data.name: _points(data.train) for data in (moons(), and_table(), xor_table())},
    }


def disagreements(digits: Split, repository: ModelRepository) -> list[int]:
    """Return the rows that the two networks classify differently, each with a margin over 0.05."""
    first, second = (_probabilities(digits, repository, name) for name in NETWORKS)
    ranked = np.sort(np.stack([first, second]), axis=2)
    confident = (ranked[..., -1] - ranked[..., -2] > MARGIN).all(axis=0)
    different = first.argmax(axis=1) != second.argmax(axis=1)
    rows: list[int] = np.flatnonzero(different & confident).tolist()
    return rows


def as_text(content: Mapping[str, Any]) -> str:
    """Return `content` as JSON, with one line for each key."""
    lines = (
        f"{json.dumps(name)}:{json.dumps(value, separators=(',', ':'))}"
        for name, value in content.items()
    )
    return "{" + ",\n".join(lines) + "}\n"


def _probabilities(
    digits: Split, repository: ModelRepository, name: str, rows: int = 500
) -> NDArray[np.float32]:
    network = open_runtime(repository.get(name), "onnx")
    batches = [batch.numpy() for batch in digits.inputs.split(rows)]
    return np.concatenate([network({"image": batch})["probabilities"] for batch in batches])


def _evenly(rows: list[int], limit: int = HARD) -> list[int]:
    """Return at most `limit` rows at even distances, with the first and the last."""
    if len(rows) <= limit:
        return rows
    return [rows[index] for index in np.linspace(0, len(rows) - 1, limit).round().astype(int)]


def _example(digits: Split, index: int) -> dict[str, Any]:
    pixels = digits.inputs[index].contiguous().numpy().tobytes()
    return {
        "index": index,
        "label": int(digits.targets[index]),
        "pixels": base64.b64encode(pixels).decode(),
    }


def _points(split: Split) -> dict[str, Any]:
    return {"points": _rounded(split.inputs, 2), "labels": split.targets.tolist()}


def _rounded(values: Tensor, decimals: int) -> list[Any]:
    rounded: list[Any] = values.double().numpy().round(decimals).tolist()
    return rounded


def main(
    data_dir: Annotated[
        Path,
        typer.Option(envvar="FITSERVE_DATA_DIR", help="folder of MNIST, for reading or download"),
    ] = Path("data"),
    repository: Annotated[Path, typer.Option(help="the repository with the networks")] = Path(
        "models"
    ),
    to: Annotated[Path, typer.Option(help="the file to write")] = FILE,
) -> None:
    """Write the playground's examples."""
    try:
        digits = mnist(data_dir).test
    except DataError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    content = examples(digits, ModelRepository(repository))
    to.write_text(as_text(content))
    typer.echo(
        f"{to}: {len(content['digits'])} digits, {len(content['hard'])} hard digits, "
        f"{len(content['curve']['x'])} points of the curve, "
        f"{len(content['moons']['labels'])} points of the moons; {to.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    typer.run(main)
