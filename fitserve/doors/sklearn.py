"""The door for estimators and pipelines of scikit-learn, in Python or in a `.skops` file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fitserve.doors import is_of
from fitserve.exported import GIVE_ROWS, Arrays, Exported, ExportError, Record, reason
from fitserve.tables import columns_of, rows_of, with_name
from fitserve.text_steps import case_notes, require_known, with_words

SHOWN = "scikit-learn estimator"
OPSETS = {"": 18, "ai.onnx.ml": 3}
"""The newest that all converters know."""


def takes(network: object) -> bool:
    """Return whether the network is an estimator of scikit-learn, and of no library above it."""
    others = ("xgboost", "lightgbm")
    return is_of(network, "sklearn", "BaseEstimator") and not any(
        is_of(network, library) for library in others
    )


def read(file: Path) -> Any:
    """Return the estimator in a file of skops. Types that skops does not trust are refused."""
    try:
        import skops.io
    except ImportError as error:
        raise ExportError("skops is not installed: pip install skops") from error
    untrusted = skops.io.get_untrusted_types(file=file)
    if untrusted:
        raise ExportError(
            f"{file.name}: it holds {', '.join(untrusted)}, which skops does not trust: load it in "
            "Python, and give the estimator to fitserve.save"
        )
    return skops.io.load(file)


def export(network: Any, samples: Sequence[Any], labels: Sequence[str]) -> Exported:
    """Return the estimator as files.

    Args:
        network: the fitted estimator.
        samples: one: an array of rows, a list of texts, or a data frame or a mapping of names to
            columns, which become inputs.
        labels: the classes; by default, those of the estimator.

    Raises:
        ExportError: the estimator is not fitted, fails on the sample, or has no form in ONNX.
    """
    import sklearn

    if not samples:
        raise ExportError(f"scikit-learn states no shapes: {GIVE_ROWS}")
    rows = samples[0]
    columns = columns_of(rows, texts=True)
    require_known(network)
    if isinstance(getattr(network, "classes_", None), list):
        raise ExportError(_several_targets(network))
    try:
        answers = _answers(network, rows)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"the estimator fails on the sample ({reason(error)}): fit it, and give rows as it was "
            "fitted on"
        ) from error
    onnx, inputs, outputs = _onnx(network, columns)
    known = {
        name: answer for name, answer in zip(outputs, answers, strict=False) if answer is not None
    }
    classes = getattr(network, "classes_", ()) if "probabilities" in outputs else ()
    return Exported(
        onnx,
        [
            Record(
                {name: array for name, array in _renamed(columns).items() if name in inputs},
                known,
            )
        ],
        f"{type(network).__name__} of scikit-learn {sklearn.__version__}",
        labels=labels or [str(name) for name in classes],
        notes=case_notes(network),
    )


def _answers(network: Any, rows: Any) -> list[Any]:
    """Return what the estimator computes, in the order of the outputs of skl2onnx.

    None stands for an output that is not compared: the scores of a classifier without
    probabilities have another form in ONNX.
    """
    given = rows_of(rows)
    if hasattr(network, "classes_"):
        labels = network.predict(given)
        if labels.ndim > 1:
            raise ExportError(_several_targets(network))
        scores = network.predict_proba(given) if hasattr(network, "predict_proba") else None
        labels = labels.astype(str if labels.dtype.kind in "OUST" else np.int64)
        return [labels, None if scores is None else np.float32(scores)]
    if hasattr(network, "predict"):
        predicted = np.asarray(network.predict(given))
        if predicted.dtype.kind == "f":
            return [np.float32(predicted).reshape(len(predicted), -1)]
        return [None]  # clusters and outliers have other shapes in ONNX
    transformed = network.transform(given)
    return [np.float32(transformed.toarray() if hasattr(transformed, "toarray") else transformed)]


def _several_targets(network: Any) -> str:
    return (
        f"{type(network).__name__} has the classes of several targets: fit and save an estimator "
        "for each target"
    )


def _renamed(columns: Arrays) -> Arrays:
    """Return columns by the names that skl2onnx gives them: letters, digits, `+` and `_`."""
    from skl2onnx.common._topology import Topology

    names: set[str] = set()
    return {Topology._generate_unique_name(name, names): array for name, array in columns.items()}


def _onnx(network: Any, columns: Arrays) -> tuple[bytes, list[str], list[str]]:
    """Return the estimator as ONNX, with the names of its inputs and outputs."""
    try:
        from skl2onnx import to_onnx
    except ImportError as error:
        raise ExportError("skl2onnx is not installed: pip install skl2onnx") from error
    is_classifier = hasattr(network, "classes_")
    last = network.steps[-1][1] if hasattr(network, "steps") else network
    options: dict[Any, Any] = {"zipmap": False} if is_classifier else {}
    if is_of(last, "sklearn", "LinearSVC"):  # which lacks this option, and gives no probabilities
        options = {type(last): {"raw_scores": True}}
    try:
        with _lists_for_arrays():
            model = to_onnx(
                network,
                initial_types=_types(columns),
                options=options or None,
                target_opset=OPSETS,
            )
    except Exception as error:
        raise ExportError(
            f"{type(network).__name__} has no form in ONNX ({reason(error)}): "
            + _advice(columns, reason(error))
        ) from error
    with_words(model)
    if is_classifier and len(network.classes_) == 2 and not hasattr(network, "predict_proba"):
        _drop_scores(model)
    with_name(model, "variable", "prediction")
    inputs, outputs = (
        [value.name for value in values] for values in (model.graph.input, model.graph.output)
    )
    return model.SerializeToString(), inputs, outputs


def _advice(columns: Arrays, failure: str) -> str:
    if len(columns) > 1 and "input(s)" in failure:
        return "it takes all columns in one array, so give sample=frame.to_numpy()"
    return "use a step that skl2onnx converts, or write a converter for it"


@contextmanager
def _lists_for_arrays() -> Iterator[None]:
    """Give attributes of nodes as lists of numbers: onnx refuses skl2onnx's arrays and booleans."""
    from skl2onnx.common import _container as container

    make_node = container.make_node

    def make(*arguments: Any, **attributes: Any) -> Any:
        return make_node(*arguments, **{name: _plain(one) for name, one in attributes.items()})

    container.make_node = make
    try:
        yield
    finally:
        container.make_node = make_node


def _plain(value: Any) -> Any:
    if not isinstance(value, (list, np.ndarray)):
        return value
    return [int(one) if isinstance(one, (bool, np.bool_)) else one for one in list(value)]


def _drop_scores(model: Any) -> None:
    """Take out the scores of two classes, whose columns skl2onnx writes in the other order."""
    for output in [one for one in model.graph.output if one.name == "probabilities"]:
        model.graph.output.remove(output)


def _types(columns: Arrays) -> list[tuple[str, Any]]:
    from skl2onnx.common.data_types import StringTensorType, guess_data_type

    def kind(array: Any) -> Any:
        return StringTensorType if array.dtype == object else type(guess_data_type(array)[0][1])

    return [(name, kind(array)([None, *array.shape[1:]])) for name, array in columns.items()]
