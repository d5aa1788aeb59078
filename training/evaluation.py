"""Evaluation: the metrics of a network on one split, with the number of samples, for its card."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    confusion_matrix,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.package.card import ClassReport, Evaluation
from training.datasets import IGNORED, Dataset, Split
from training.loop import predict

CALIBRATION_BINS = 15


class NotFiniteError(RuntimeError):
    """A network with outputs that are not finite, for which no metric is defined."""


def evaluate(
    network: nn.Module, data: Dataset, split: Split, name: str, *, references: bool = False
) -> Evaluation:
    """Return the metrics of `network` on one split of `data`.

    Args:
        network: takes raw inputs; returns logits or values.
        data: the data set of the split.
        split: the rows to evaluate, on the network's device.
        name: the name of the split in the card.
        references: whether to add the metrics of the data set's baselines.

    Raises:
        NotFiniteError: an output is infinite or NaN.
    """
    outputs, targets = predict(network, split.inputs).cpu(), split.targets.cpu()
    if not outputs.isfinite().all():
        raise NotFiniteError(
            f"the network's outputs are not finite on {data.name}, {name}: "
            "lower --lr, or set --clip-norm"
        )
    if data.task == "regression":
        evaluation = regression(outputs, targets)
    elif targets.ndim > 1:
        evaluation = sequences(outputs, targets)
    else:
        evaluation = classification(outputs, targets, data.labels)
    metrics = dict(evaluation.metrics)
    if references and data.baselines:
        metrics |= data.baselines(data, split.to(torch.device("cpu")))
    return evaluation.model_copy(update={"data": data.name, "split": name, "metrics": metrics})


def classification(logits: Tensor, targets: Tensor, labels: tuple[str, ...]) -> Evaluation:
    """Return accuracy, negative log-likelihood (nats), calibration error and class reports.

    Args:
        logits: float32 [N, classes].
        targets: int64 [N].
        labels: the class names, in the order of the logits.
    """
    # Small probabilities need double precision, because the log-likelihood takes their logarithm.
    probabilities = logits.double().softmax(dim=1).numpy()
    truth, predicted = targets.numpy(), probabilities.argmax(axis=1)
    classes = list(range(len(labels)))
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=classes, zero_division=0.0
    )
    return Evaluation(
        data="",
        split="",
        samples=len(truth),
        metrics={
            "accuracy": float((predicted == truth).mean()),
            "negative_log_likelihood": float(log_loss(truth, probabilities, labels=classes)),
            "expected_calibration_error": calibration_error(probabilities, truth),
        },
        classes=tuple(
            ClassReport(
                label=label,
                precision=float(precision[index]),
                recall=float(recall[index]),
                f1=float(f1[index]),
                samples=int(support[index]),
            )
            for index, label in enumerate(labels)
        ),
        confusion=tuple(map(tuple, confusion_matrix(truth, predicted, labels=classes).tolist())),
    )


def sequences(logits: Tensor, targets: Tensor) -> Evaluation:
    """Return the accuracy of whole sequences and of places, and the likelihood (nats a place).

    Args:
        logits: float32 [N, places, classes].
        targets: int64 [N, places]; -100 where nothing is asked.
    """
    asked = targets != IGNORED
    right = logits.argmax(dim=2) == targets
    return Evaluation(
        data="",
        split="",
        samples=len(targets),
        metrics={
            "accuracy": float((right | ~asked).all(dim=1).double().mean()),
            "place_accuracy": float(right[asked].double().mean()),
            "negative_log_likelihood": float(cross_entropy(logits[asked].double(), targets[asked])),
        },
    )


def calibration_error(probabilities: NDArray[np.floating], truth: NDArray[np.integer]) -> float:
    """Return the expected calibration error over 15 equal bins of confidence, in [0, 1].

    Guo et al., "On calibration of modern neural networks" (2017).
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(truth))


def regression(values: Tensor, targets: Tensor) -> Evaluation:
    """Return mean absolute and squared errors and R² of values and targets, float32 [N, 1]."""
    truth, predicted = targets.double().numpy(), values.double().numpy()
    squared = float(mean_squared_error(truth, predicted))
    return Evaluation(
        data="",
        split="",
        samples=len(truth),
        metrics={
            "mse": squared,
            "rmse": squared**0.5,
            "mae": float(mean_absolute_error(truth, predicted)),
            "r2": float(r2_score(truth, predicted)),
        },
    )
