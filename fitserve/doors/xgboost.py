"""The door for models of XGBoost, in Python or in a file of `save_model`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fitserve.boosting import exported
from fitserve.doors import is_of
from fitserve.exported import Exported, ExportError

SHOWN = "model of XGBoost"


def takes(network: object) -> bool:
    """Return whether the network is a model of XGBoost."""
    return is_of(network, "xgboost", "XGBModel")


def read(file: Path) -> Any:
    """Return the model in a file of `save_model`, as a classifier or regressor."""
    import json

    import xgboost

    booster = xgboost.Booster(model_file=str(file))
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    kind = "Classifier" if objective.startswith(("binary:", "multi:")) else "Regressor"
    model = getattr(xgboost, f"XGB{kind}")()
    try:
        model.load_model(file)
    except Exception as error:
        raise ExportError(f"{file.name}: XGBoost cannot load it ({error})") from error
    return model


def export(network: Any, samples: Sequence[Any], labels: Sequence[str]) -> Exported:
    """Return the model as files.

    Args:
        network: a fitted `XGBClassifier` or `XGBRegressor`.
        samples: one, an array of rows.
        labels: the classes; by default, those of the model.

    Raises:
        ExportError: the model fails on the sample, or has no form in ONNX.
    """
    return exported(network, samples, labels, library="xgboost")
