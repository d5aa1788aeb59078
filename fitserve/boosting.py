"""What the doors for gradient boosting share: onnxmltools, and the answers of the model."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve.exported import GIVE_ROWS, Exported, ExportError, Record, reason
from fitserve.tables import NAME, columns_of, rows_of, with_name


def exported(network: Any, samples: Sequence[Any], labels: Sequence[str], library: str) -> Exported:
    """Return a model of `library` as files.

    Raises:
        ExportError: the model fails on the sample, or has no form in ONNX.
    """
    if not samples:
        raise ExportError(f"the model states no shapes: {GIVE_ROWS}")
    try:
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType
    except ImportError as error:
        raise ExportError("onnxmltools is not installed: pip install onnxmltools") from error
    if getattr(network, "booster", None) in ("gblinear", "dart"):
        raise ExportError(
            f"{type(network).__name__} has the booster {network.booster}, which has no form in "
            "ONNX: fit it with booster='gbtree'"
        )
    columns = columns_of(samples[0])
    name = next(iter(columns)) if len(columns) == 1 else NAME
    rows: NDArray[Any] = np.concatenate(list(columns.values()), axis=1)
    try:
        answers = _answers(network, np.asarray(rows_of(samples[0])))
        types = [(name, FloatTensorType([None, rows.shape[1]]))]
        options = {"zipmap": False} if library == "lightgbm" else {}
        convert = getattr(onnxmltools, f"convert_{library}")
        with _without_names(network):
            model = convert(network, initial_types=types, **options)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"{type(network).__name__} cannot be exported ({reason(error)}): give a fitted "
            "classifier or regressor, and rows of numbers as it was fitted on"
        ) from error
    with_name(model, "variable", "prediction")
    outputs = [output.name for output in model.graph.output]
    known = dict(zip(outputs, answers, strict=False)) if len(answers) == len(outputs) else {}
    return Exported(
        model.SerializeToString(),
        [Record({name: rows}, known)],
        f"{type(network).__name__} of {library} {sys.modules[library].__version__}",
        labels=labels or [str(one) for one in getattr(network, "classes_", ())],
    )


@contextmanager
def _without_names(network: Any) -> Iterator[None]:
    """Take the names of columns out of a model of XGBoost: onnxmltools takes columns by number."""
    booster = network.get_booster() if hasattr(network, "get_booster") else None
    names = getattr(booster, "feature_names", None)
    if booster is not None:
        booster.feature_names = None
    try:
        yield
    finally:
        if booster is not None:
            booster.feature_names = names


def _answers(network: Any, rows: Any) -> list[Any]:
    predicted = np.asarray(network.predict(rows))
    if predicted.ndim > 1 and hasattr(network, "get_booster"):
        raise ExportError(
            f"{type(network).__name__} predicts several targets, whose form in ONNX is another: "
            "fit and save a model for each target"
        )
    if hasattr(network, "classes_"):
        labels = predicted.astype(str if predicted.dtype.kind in "OUST" else np.int64)
        return [labels, np.float32(network.predict_proba(rows))]
    return [np.float32(predicted).reshape(len(predicted), -1)]
