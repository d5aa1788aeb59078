"""The door for models of LightGBM, in Python or in a file of `save_model`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fitserve.boosting import exported
from fitserve.doors import is_of
from fitserve.exported import Exported

SHOWN = "model of LightGBM"


def takes(network: object) -> bool:
    """Return whether the network is a model of LightGBM."""
    return is_of(network, "lightgbm", "LGBMModel", "Booster")


def read(file: Path) -> Any:
    """Return the model in a file of `save_model`."""
    import lightgbm

    return lightgbm.Booster(model_file=str(file))


def export(network: Any, samples: Sequence[Any], labels: Sequence[str]) -> Exported:
    """Return the model as files.

    Args:
        network: a fitted `LGBMClassifier`, `LGBMRegressor` or `Booster`.
        samples: one, an array of rows.
        labels: the classes; by default, those of the model.

    Raises:
        ExportError: the model fails on the sample, or has no form in ONNX.
    """
    return exported(network, samples, labels, library="lightgbm")
