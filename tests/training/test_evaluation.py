"""Tests of the metrics against small cases computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from training.datasets import Dataset
from training.evaluation import calibration_error, classification, evaluate, regression

LABELS = ("a", "b", "c")
#                         truth: a a a b b c; answers: a a b b c c
TRUTH = torch.tensor([0, 0, 0, 1, 1, 2])
ANSWERS = torch.tensor([0, 0, 1, 1, 2, 2])
LOGITS = torch.log(0.1 + 0.7 * nn.functional.one_hot(ANSWERS, 3).float())  # 0.8, 0.1, 0.1


def test_accuracy_and_likelihood_match_a_computation_by_hand() -> None:
    evaluation = classification(LOGITS, TRUTH, LABELS)
    assert evaluation.samples == 6
    assert evaluation.metrics["accuracy"] == pytest.approx(4 / 6)
    likelihood = -(4 * math.log(0.8) + 2 * math.log(0.1)) / 6
    assert evaluation.metrics["negative_log_likelihood"] == pytest.approx(likelihood, rel=1e-6)
    # All six samples are in one bin: confidence 0.8, accuracy 4/6.
    error = evaluation.metrics["expected_calibration_error"]
    assert error == pytest.approx(0.8 - 4 / 6, abs=1e-6)


def test_the_confusion_matrix_has_true_classes_as_rows() -> None:
    assert classification(LOGITS, TRUTH, LABELS).confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 1))


def test_precision_recall_and_f1_match_a_computation_by_hand() -> None:
    a, b, c = classification(LOGITS, TRUTH, LABELS).classes
    assert (a.label, a.samples) == ("a", 3)
    assert (a.precision, a.recall) == pytest.approx((1, 2 / 3))
    assert a.f1 == pytest.approx(0.8)
    assert (b.precision, b.recall, b.f1, b.samples) == pytest.approx((1 / 2, 1 / 2, 1 / 2, 2))
    assert (c.precision, c.recall, c.samples) == pytest.approx((1 / 2, 1, 1))
    assert c.f1 == pytest.approx(2 / 3)


def test_a_class_without_answers_or_samples_counts_as_zero_and_is_kept() -> None:
    logits = torch.tensor([[5.0, 0, 0], [5.0, 0, 0]])
    evaluation = classification(logits, torch.tensor([0, 1]), LABELS)
    assert evaluation.confusion == ((1, 0, 0), (1, 0, 0), (0, 0, 0))
    assert [entry.f1 for entry in evaluation.classes] == pytest.approx([2 / 3, 0, 0])
    assert [entry.samples for entry in evaluation.classes] == [1, 1, 0]


def test_a_likelihood_below_single_precision_is_finite() -> None:
    evaluation = classification(torch.tensor([[0.0, 200.0]]), torch.tensor([0]), ("a", "b"))
    assert evaluation.metrics["negative_log_likelihood"] > 30
    assert math.isfinite(evaluation.metrics["negative_log_likelihood"])


def binary(confidences: list[float], right: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of two classes with answer 0, and the true classes."""
    probabilities = np.array([[value, 1 - value] for value in confidences])
    return probabilities, np.array([0 if correct else 1 for correct in right])


def test_a_perfectly_calibrated_network_has_no_calibration_error() -> None:
    eighty = [0.8] * 10, [True] * 8 + [False] * 2
    sixty = [0.6] * 10, [True] * 6 + [False] * 4
    case = binary(eighty[0] + sixty[0], eighty[1] + sixty[1])
    assert calibration_error(*case) == pytest.approx(0, abs=1e-12)


def test_an_overconfident_network_s_calibration_error_is_its_overconfidence() -> None:
    case = binary([1.0] * 10, [True] * 5 + [False] * 5)
    assert calibration_error(*case) == pytest.approx(0.5)


def test_overconfidence_and_underconfidence_do_not_cancel_out() -> None:
    case = binary([0.9] * 10 + [0.6] * 10, [True] * 6 + [False] * 4 + [True] * 9 + [False])
    # Confidence 0.9 with accuracy 0.6, and 0.6 with accuracy 0.9: 0.3 in both halves.
    assert calibration_error(*case) == pytest.approx(0.3)


def test_confidences_are_compared_in_fifteen_bins() -> None:
    # 0.61 and 0.65 share the bin from 9/15 to 10/15; 0.68 is in the next one.
    together = binary([0.61, 0.65], [True, False])
    apart = binary([0.61, 0.68], [True, False])
    assert calibration_error(*together) == pytest.approx(abs(0.61 + 0.65 - 1) / 2)
    assert calibration_error(*apart) == pytest.approx((0.39 + 0.68) / 2)


def test_regression_metrics_match_a_computation_by_hand() -> None:
    targets = torch.tensor([[1.0], [2.0], [3.0], [6.0]])
    values = torch.tensor([[1.0], [4.0], [3.0], [5.0]])
    evaluation = regression(values, targets)
    assert evaluation.samples == 4
    assert evaluation.metrics["mse"] == pytest.approx(5 / 4)
    assert evaluation.metrics["rmse"] == pytest.approx(math.sqrt(5 / 4))
    assert evaluation.metrics["mae"] == pytest.approx(3 / 4)
    assert evaluation.metrics["r2"] == pytest.approx(1 - 5 / 14)  # mean 3: 4 + 1 + 0 + 9
    assert evaluation.classes == ()


def test_least_squares_mse_is_that_of_the_best_line_of_the_training_split(
    curve: Dataset,
) -> None:
    x, y = curve.train.inputs.flatten().numpy(), curve.train.targets.flatten().numpy()
    slope, offset = np.polyfit(x.astype(float), y.astype(float), 1)
    line = nn.Linear(1, 1)
    with torch.no_grad():
        line.weight.fill_(slope)
        line.bias.fill_(offset)
    metrics = evaluate(line, curve, curve.test, "test", references=True).metrics
    assert metrics["mse"] == pytest.approx(metrics["least_squares_mse"], rel=1e-5)


class Truth(nn.Module):
    """The noise-free function, which no network beats by more than chance."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the curve."""
        return x + 2 * torch.sin(x)


def test_the_noise_floor_is_the_error_of_the_true_curve_and_about_one(curve: Dataset) -> None:
    evaluation = evaluate(Truth(), curve, curve.test, "test", references=True)
    assert (evaluation.data, evaluation.split, evaluation.samples) == ("curve", "test", 3_000)
    assert evaluation.metrics["noise_floor_mse"] == pytest.approx(1, abs=0.1)
    assert evaluation.metrics["mse"] == pytest.approx(evaluation.metrics["noise_floor_mse"])


def test_the_best_linear_accuracy_is_not_beaten_by_lines_of_any_direction(moons: Dataset) -> None:
    metrics = evaluate(nn.Linear(2, 2), moons, moons.test, "test", references=True).metrics
    points, classes = moons.test.inputs.numpy(), moons.test.targets.numpy()
    statistic = 0.0
    for angle in np.linspace(0, 2 * math.pi, 120, endpoint=False):
        height = points @ np.array([math.cos(angle), math.sin(angle)])
        order = np.argsort(height)
        below = np.cumsum(classes[order] == 0) + (classes == 1).sum() - np.cumsum(classes[order])
        statistic = max(statistic, float(below.max()) / len(classes))
    # The search uses the test split, so a line fitted on 160 points has a lower accuracy.
    assert statistic - 0.02 < metrics["best_linear_accuracy"] <= statistic + 1e-9


def test_references_are_optional_and_absent_for_images(moons: Dataset, few_digits: Dataset) -> None:
    plain = evaluate(nn.Linear(2, 2), moons, moons.test, "test")
    assert "best_linear_accuracy" not in plain.metrics
    images = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    floats = nn.Sequential(Floats(), images)
    metrics = evaluate(floats, few_digits, few_digits.test, "test", references=True).metrics
    assert set(metrics) == {"accuracy", "negative_log_likelihood", "expected_calibration_error"}


class Floats(nn.Module):
    """A conversion of bytes to floats."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same numbers as floats."""
        return x.float()


def test_a_network_in_train_mode_is_evaluated_in_eval_mode(moons: Dataset) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 50), nn.Dropout(0.5), nn.Linear(50, 2)).train()
    first = evaluate(network, moons, moons.test, "test")
    network.train()
    assert evaluate(network, moons, moons.test, "test") == first
