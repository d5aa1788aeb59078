"""What the doors for gradient boosting share: onnxmltools, and the answers of the model."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve.exported import GIVE_ROWS, Exported, ExportError, Record
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
    columns = columns_of(samples[0])
    name = next(iter(columns)) if len(columns) == 1 else NAME
    rows: NDArray[Any] = np.concatenate(list(columns.values()), axis=1)
    try:
        answers = _answers(network, np.asarray(rows_of(samples[0])))
        types = [(name, FloatTensorType([None, rows.shape[1]]))]
        options = {"zipmap": False} if library == "lightgbm" else {}
        convert = getattr(onnxmltools, f"convert_{library}")
        model = convert(network, initial_types=types, **options)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"{type(network).__name__} cannot be exported ({reason}): give a fitted classifier or "
            "regressor, and rows of numbers as it was fitted on"
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


def _answers(network: Any, rows: Any) -> list[Any]:
    predicted = np.asarray(network.predict(rows))
    if hasattr(network, "classes_"):
        return [predicted.astype(np.int64), np.float32(network.predict_proba(rows))]
    return [np.float32(predicted).reshape(len(predicted), -1)]
