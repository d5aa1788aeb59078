"""What the playground shows of the data: test digits, hard ones among them, a curve, the moons.

`python -m training.specimens` writes it as `service/playground/examples.json`, from the data sets
and the two packages `mnist-mlp` and `mnist-cnn`. A page cannot hold ten thousand digits: it has the
first test digit of each class, and some on which the two networks disagree.
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

from models.repository import ModelRepository
from models.runtimes import open_runtime
from training.datasets import DataError, Split, curve, mnist, moons

NETWORKS = ("mnist-mlp", "mnist-cnn")
HARD = 14
# Where a network's two best are nearer than this, another machine may answer otherwise.
MARGIN = 0.05
SOURCE = (
    "digits, hard: the test split of MNIST, copyright Yann LeCun and Corinna Cortes, made from "
    "NIST's data; Creative Commons Attribution-ShareAlike 3.0"
)
FILE = Path("service/playground/examples.json")


def specimens(digits: Split, repository: ModelRepository) -> dict[str, Any]:
    """What the page gets, as it is written.

    Args:
        digits: MNIST's test split, uint8 [N, 28, 28].
        repository: where the two networks are.
    """
    labels = digits.targets.tolist()
    on_curve, on_moons = curve().train, moons().train
    return {
        "source": SOURCE,
        "digits": [_specimen(digits, labels.index(label)) for label in sorted(set(labels))],
        "hard": [_specimen(digits, index) for index in _evenly(disagreements(digits, repository))],
        "curve": {
            "x": _rounded(on_curve.inputs[:, 0], 3),
            "y": _rounded(on_curve.targets[:, 0], 3),
        },
        "moons": {
            "points": _rounded(on_moons.inputs, 2),
            "labels": on_moons.targets.tolist(),
        },
    }


def disagreements(digits: Split, repository: ModelRepository) -> list[int]:
    """The rows on which the two networks give different answers, each with some certainty."""
    first, second = (_probabilities(digits, repository, name) for name in NETWORKS)
    ranked = np.sort(np.stack([first, second]), axis=2)
    sure = (ranked[..., -1] - ranked[..., -2] > MARGIN).all(axis=0)
    apart = first.argmax(axis=1) != second.argmax(axis=1)
    rows: list[int] = np.flatnonzero(apart & sure).tolist()
    return rows


def as_text(content: Mapping[str, Any]) -> str:
    """`content` as JSON, a line for each part."""
    parts = (
        f"{json.dumps(name)}:{json.dumps(part, separators=(',', ':'))}"
        for name, part in content.items()
    )
    return "{" + ",\n".join(parts) + "}\n"


def _probabilities(
    digits: Split, repository: ModelRepository, name: str, rows: int = 500
) -> NDArray[np.float32]:
    network = open_runtime(repository.get(name), "onnx")
    batches = [batch.numpy() for batch in digits.inputs.split(rows)]
    return np.concatenate([network({"image": batch})["probabilities"] for batch in batches])


def _evenly(rows: list[int], most: int = HARD) -> list[int]:
    """At most so many of these, from the first to the last."""
    if len(rows) <= most:
        return rows
    return [rows[place] for place in np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _specimen(digits: Split, index: int) -> dict[str, Any]:
    pixels = digits.inputs[index].contiguous().numpy().tobytes()
    return {
        "index": index,
        "label": int(digits.targets[index]),
        "pixels": base64.b64encode(pixels).decode(),
    }


def _rounded(values: Tensor, places: int) -> list[Any]:
    rounded: list[Any] = values.double().numpy().round(places).tolist()
    return rounded


def main(
    data_dir: Annotated[
        Path, typer.Option(envvar="FITSERVE_DATA_DIR", help="where MNIST lies or goes")
    ] = Path("data"),
    repository: Annotated[Path, typer.Option(help="where the networks are")] = Path("models"),
    to: Annotated[Path, typer.Option(help="the file that is written")] = FILE,
) -> None:
    """Write the playground's specimens."""
    try:
        digits = mnist(data_dir).test
    except DataError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    content = specimens(digits, ModelRepository(repository))
    to.write_text(as_text(content))
    typer.echo(
        f"{to}: {len(content['digits'])} digits, {len(content['hard'])} hard ones, "
        f"{len(content['curve']['x'])} places on the curve, "
        f"{len(content['moons']['labels'])} points of the moons; {to.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    typer.run(main)
