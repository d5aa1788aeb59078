"""The heads of networks of Transformers: their classes, and the scores that pipelines make."""

from typing import TYPE_CHECKING, Any, Literal

from fitserve.doors import is_of
from fitserve.exported import ExportError

if TYPE_CHECKING:
    from torch import nn

Scores = Literal["softmax", "sigmoid", "none"]


def is_transformer(network: object) -> bool:
    """Return whether a network is one of Transformers."""
    return is_of(network, "transformers", "PreTrainedModel")


def scores_of(network: Any) -> Scores:
    """Return the function that makes scores of logits, as the pipelines of Transformers choose it.

    Raises:
        ExportError: the network is of Transformers, and neither a classifier nor a base model.
    """
    if not is_transformer(network):
        return "none"
    kind, config = type(network).__name__, network.config
    if kind.endswith("ForTokenClassification"):
        return "softmax"
    if kind.endswith(("ForSequenceClassification", "ForImageClassification")):
        if config.problem_type == "regression":
            return "none"
        several = config.problem_type == "multi_label_classification"
        return "sigmoid" if several or config.num_labels == 1 else "softmax"
    if kind.endswith("Model") and not kind.endswith(("LMHeadModel", "DoubleHeadsModel")):
        return "none"
    raise ExportError(
        f"the network is a {kind}: give one of …ForSequenceClassification, "
        "…ForTokenClassification or …ForImageClassification, or the base model, as "
        "AutoModel.from_pretrained(folder) makes it"
    )


def scored(result: Any, scores: Scores) -> Any:
    """Return the outputs of a network, with scores in the place of its logits."""
    if scores == "none":
        return result
    logits = result["logits"]
    return {"scores": logits.softmax(dim=-1) if scores == "softmax" else logits.sigmoid()}


def classes_of(network: Any) -> list[str]:
    """Return the labels of a classifier of Transformers; empty for other networks."""
    if not is_transformer(network) or type(network).__name__.endswith("Model"):
        return []
    known = network.config.id2label
    return [str(known[at]) for at in range(len(known))]


def with_scores(network: "nn.Module") -> "nn.Module":
    """Return a network for pictures whose output is the scores."""
    from torch import nn

    scores = scores_of(network)

    class Scored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixel_values: Any) -> Any:
            return scored(self.network(pixel_values), scores)

    Scored.__name__ = Scored.__qualname__ = type(network).__name__
    return Scored().train(network.training)
