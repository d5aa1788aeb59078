"""What the card says of batches: which requests may share one, as far as that is proved."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from models.graphs.shared_values import values_matter
from models.kinds.split_rows import SplitSpec
from models.kinds.tensor_spec import TensorSpec
from models.package.card import ModelCard, RecordedTensor
from models.proofs.row_proof import RowsProof
from models.runtimes.runtime import Arrays
from models.sources.importing import ForeignGraph

_ALONE = "Each request is computed alone"


def batching(
    card: ModelCard, graph: ForeignGraph, proof: RowsProof, content: bytes
) -> Mapping[str, Any]:
    """Return the fields of the card that state what may be computed in one batch."""
    if graph.whole:
        reason = f"{_ALONE}, as one computation: {graph.whole}."
        return {"batching": "none", "limits": (*card.limits, reason)}
    if proof.mixing:
        reason = (
            f"{_ALONE}, as it came, since it is not proved that a row's "
            f"answer does not depend on the rows beside it: {proof.mixing}."
        )
        return {"batching": "none", "limits": (*card.limits, reason)}
    decided = bool(graph.axes.shared) and values_matter(content, graph.axes.shared)
    if not (proof.batched and (card.has_free_dimensions or decided)):
        return {}
    limits = [*card.limits, *_batched(card.inputs, proof.batched)]
    if proof.unbatched:
        rows, reason = proof.unbatched[0]
        shapes = ", ".join(f"{list(array.shape[1:])} of {name}" for name, array in rows.items())
        limits.append(f"Rows of {shapes} are not batched: {reason}.")
    shapes_of = [{name: array.shape[1:] for name, array in rows.items()} for rows in proof.batched]
    if not decided:
        shapes_of = [one for at, one in enumerate(shapes_of) if one not in shapes_of[:at]]
    values_of: tuple[dict[str, RecordedTensor], ...] = ()
    if decided:
        specs = [spec for spec in card.inputs if spec.batch_axis is None]
        values_of = tuple(
            {spec.name: RecordedTensor.of(spec.datatype, rows[spec.name][0, ...]) for spec in specs}
            for rows in proof.batched
        )
        limits += _batched_values(specs, proof.batched)
    return {
        "batched_shapes": tuple(shapes_of),
        "batched_values": values_of,
        "limits": tuple(limits),
    }


def batched_entries(card: ModelCard, split: SplitSpec) -> Mapping[str, Any]:
    """Return the fields of the card of a network whose outputs are divided among the rows."""
    rows = {name: tensor.shape[1:] for name, tensor in card.example.inputs.items()}
    limits = tuple(limit for limit in card.limits if not limit.startswith(_ALONE))
    if card.has_free_dimensions:
        limits += tuple(_batched(card.inputs, [_arrays_of(card)]))
    return {
        "split": split,
        "batching": "rows",
        "batched_shapes": (rows,) if card.has_free_dimensions else (),
        "limits": limits,
    }


def _arrays_of(card: ModelCard) -> Arrays:
    return {name: tensor.array() for name, tensor in card.example.inputs.items()}


def _batched_values(shared: Sequence[TensorSpec], batched: Sequence[Arrays]) -> Iterable[str]:
    for spec in shared:
        values = dict.fromkeys(str(np.asarray(rows[spec.name][0]).tolist()) for rows in batched)
        yield (
            f"Of {spec.name}, requests with {' or '.join(values)} are batched; a request with "
            "another value is computed alone."
        )


def _batched(inputs: Sequence[TensorSpec], batched: Sequence[Arrays]) -> Iterable[str]:
    for spec in inputs:
        if -1 in spec.shape[1:]:
            shapes = dict.fromkeys(rows[spec.name].shape[1:] for rows in batched)
            proved = ", ".join(str(list(shape)) for shape in shapes)
            yield (
                f"Of {spec.name}, rows of {proved} are batched; a request with rows of other sizes "
                "is computed alone."
            )
