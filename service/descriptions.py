"""What `GET /models` and `GET /models/{name}` tell of a model, as JSON that is made once.

A card with its example may be megabytes, and to write it takes as long as thousands of predictions.
"""

from dataclasses import asdict
from typing import Any, NamedTuple

import orjson

from models.card import Evaluation, ModelCard, TensorSpec
from service.paths import without_paths
from service.placement import Placement


class Description(NamedTuple):
    """A model in brief, as among all models, and in full: its card. Both with how it is served."""

    summary: bytes
    full: bytes


def describe(card: ModelCard, placement: Placement, notice: str | None = None) -> Description:
    """The description of a model that serves.

    Args:
        card: what its package says.
        placement: its runtime, device and timings, in seconds; and why a runtime of the package
            cannot use the device, as `unused`.
        notice: that an older version was put back; else it is not there.
    """
    serving = {"runtime": placement.runtime.name, "device": placement.runtime.device}
    noticed: dict[str, Any] = {"notice": notice} if notice else {}
    if placement.unused:
        noticed["unused"] = {name: without_paths(why) for name, why in placement.unused.items()}
    seconds = {
        name: {str(rows): value for rows, value in timings.items()}
        for name, timings in placement.seconds.items()
    }
    summary = {
        "name": card.name,
        "version": card.version,
        "summary": card.summary,
        "task": card.task,
        "batching": card.batching,
        "inputs": [_tensor(spec) for spec in card.inputs],
        "outputs": [_tensor(spec) for spec in card.outputs],
        "evaluations": [_figures(evaluation) for evaluation in card.evaluations],
        "serving": {**serving, **noticed},
    }
    whole = orjson.dumps({**serving, "seconds_by_batch_rows": seconds, **noticed})
    content = card.model_dump_json().encode()
    return Description(orjson.dumps(summary), content[:-1] + b',"serving":' + whole + b"}")


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """A tensor without its labels, of which there may be many thousands."""
    return {key: value for key, value in asdict(spec).items() if key != "labels"}


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    """What an evaluation came to, without the figures of each class."""
    return evaluation.model_dump(include={"data", "split", "samples", "metrics"})
