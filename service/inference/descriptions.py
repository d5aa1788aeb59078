"""The JSON of a model for `GET /models` and `GET /models/{name}`, built once.

A card with its example can have megabytes, and its encoding takes as long as thousands of
predictions.
"""

from dataclasses import asdict
from typing import Any, NamedTuple

import orjson

from models.kinds.tensor_spec import TensorSpec
from models.package.card import Evaluation, ModelCard
from service.inference.paths import without_paths
from service.inference.placement import Placement


class Description(NamedTuple):
    """The JSON of a model with its placement: the summary for the list, and the full card."""

    summary: bytes
    full: bytes


def describe(card: ModelCard, placement: Placement, notice: str | None = None) -> Description:
    """Return the description of a model that serves.

    Args:
        card: of the package.
        placement: its runtime, device and timings, in seconds, and why a runtime of the package
            cannot use the device, as `unused`.
        notice: the sentence about an older version that serves again, if any.
    """
    serving = {"runtime": placement.runtime.name, "device": placement.runtime.device}
    noticed: dict[str, Any] = {"notice": notice} if notice else {}
    if placement.unused:
        noticed["unused"] = {
            name: without_paths(reason) for name, reason in placement.unused.items()
        }
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
    """Return a tensor without its labels, which may be many thousands."""
    return {key: value for key, value in asdict(spec).items() if key != "labels"}


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    """Return the results of an evaluation, without those of each class."""
    return evaluation.model_dump(include={"data", "split", "samples", "metrics"})
