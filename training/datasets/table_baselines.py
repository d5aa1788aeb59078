"""Baselines for a table: the mean or majority, a linear model, and gradient boosting.

They get the columns of the network and the rows of its training split.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from training.datasets.dataset import Dataset, Split
from training.datasets.table import TableDataset

LINEAR_ROWS = 100_000
"""The most rows that the linear model is trained on, chosen at random."""
MAX_TREES = 1_000
"""Of gradient boosting, which stops earlier if the validation split no longer improves."""
MAX_CODES = 255
"""Of a category in scikit-learn's gradient boosting; one with more is given as numbers."""

Metrics = dict[str, float]
Baselines = Callable[[Dataset, Split], Mapping[str, float]]


def baselines_of(*, report: bool = True) -> Baselines:
    """Return the function that measures the baselines on a split; it trains them once.

    Args:
        report: whether to tell on standard error when the training begins.
    """
    trained: dict[str, Any] = {}

    def measure(data: Dataset, split: Split) -> Mapping[str, float]:
        assert isinstance(data, TableDataset)  # noqa: S101 - of which the data set is made
        if not trained:
            if report:
                sys.stderr.write("  training the baselines\n")
            trained.update(train_baselines(data))
        metrics = regression_metrics if data.task == "regression" else classification_metrics
        return {
            f"{name}_{metric}": value
            for name, model in trained.items()
            for metric, value in metrics(model, split).items()
        }

    return measure


def train_baselines(data: TableDataset) -> dict[str, Any]:
    """Return the trained models by name."""
    inputs, targets = _arrays(data.train)
    some = np.random.default_rng(0).permutation(len(inputs))[:LINEAR_ROWS]
    regresses = data.task == "regression"
    constant, linear = DummyRegressor(), Ridge()
    boosting = HistGradientBoostingRegressor
    if not regresses:
        constant, linear = DummyClassifier(), LogisticRegression(max_iter=500)
        boosting = HistGradientBoostingClassifier
    codes = list(range(data.numbers, inputs.shape[1]))
    trees = boosting(
        categorical_features=[
            at for at, size in zip(codes, data.sizes, strict=True) if size <= MAX_CODES
        ],
        max_iter=MAX_TREES,
        early_stopping=True,
        random_state=0,
    )
    numbers = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    columns = make_column_transformer(
        (numbers, list(range(data.numbers))),
        (OneHotEncoder(handle_unknown="ignore"), codes),
    )
    validation, validation_targets = _arrays(data.validation)
    return {
        "mean" if regresses else "majority": constant.fit(inputs[:, :1], targets),
        "linear": make_pipeline(columns, linear).fit(inputs[some], targets[some]),
        "gradient_boosting": trees.fit(inputs, targets, X_val=validation, y_val=validation_targets),
    }


def regression_metrics(model: Any, split: Split) -> Metrics:
    """Return the mean squared and absolute error of a model."""
    inputs, targets = _arrays(split)
    values = model.predict(inputs)
    return {
        "mse": float(mean_squared_error(targets, values)),
        "mae": float(mean_absolute_error(targets, values)),
    }


def classification_metrics(model: Any, split: Split) -> Metrics:
    """Return the accuracy and the negative log-likelihood (nats) of a model."""
    inputs, targets = _arrays(split)
    probabilities = model.predict_proba(inputs)
    return {
        "accuracy": float((model.classes_[probabilities.argmax(axis=1)] == targets).mean()),
        "negative_log_likelihood": float(log_loss(targets, probabilities, labels=model.classes_)),
    }


def _arrays(split: Split) -> tuple[NDArray[np.float32], NDArray[Any]]:
    return split.inputs.numpy(), split.targets.numpy().ravel()
