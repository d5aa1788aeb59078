"""Evaluation: the metrics of a network on one split, with the number of samples, for its card."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    confusion_matrix,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
)
from torch import Tensor, nn

from models.card import ClassReport, Evaluation
from training.datasets import Dataset, Split
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
        references: whether to add reference metrics for columns: those of the best linear model
            on the training split and, for a known curve, the noise floor.

    Raises:
        NotFiniteError: an output is infinite or NaN.
    """
    outputs = predict(network, split.inputs).cpu()
    if not outputs.isfinite().all():
        raise NotFiniteError(
            f"the network's outputs are not finite on {data.name}, {name}: "
            "lower --lr, or set --clip-norm"
        )
    if data.task == "classification":
        evaluation = classification(outputs, split.targets.cpu(), data.labels)
    else:
        evaluation = regression(outputs, split.targets.cpu())
    metrics = evaluation.metrics | (_references(data, split) if references else {})
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


def _references(data: Dataset, split: Split) -> dict[str, float]:
    inputs, targets = split.inputs.cpu(), split.targets.cpu()
    if data.input_kind == "images":
        return {}
    if data.task == "classification":
        line = LogisticRegression(C=np.inf).fit(data.train.inputs, data.train.targets)
        return {"best_linear_accuracy": float(line.score(inputs, targets))}
    references = {"least_squares_mse": _least_squares_mse(data, inputs, targets)}
    if data.truth:
        references["noise_floor_mse"] = float((data.truth(inputs) - targets).square().mean())
    return references


def _least_squares_mse(data: Dataset, inputs: Tensor, targets: Tensor) -> float:
    def design(x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones(len(x), 1)], dim=1).double()

    solution = torch.linalg.lstsq(design(data.train.inputs), data.train.targets.double()).solution
    return float((design(inputs) @ solution - targets).square().mean())
