"""Networks of other libraries, each served as the library itself answers."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

import fitserve
from models.__main__ import main
from models.package.card import ModelCard
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime

IRIS = load_iris()
FLOWERS = IRIS.data
NAMES = IRIS.target_names[IRIS.target]
PATIENTS, PROGRESS = load_diabetes(return_X_y=True)


def xgboost(kind: str, *data: Any) -> Any:
    import xgboost

    return getattr(xgboost, kind)(n_estimators=10).fit(*data)


def lightgbm(kind: str, *data: Any) -> Any:
    import lightgbm

    return getattr(lightgbm, kind)(n_estimators=10, verbose=-1).fit(*data)


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "forest": lambda: RandomForestClassifier(20, random_state=0).fit(FLOWERS, NAMES),
    "logistic": lambda: LogisticRegression(max_iter=500).fit(FLOWERS, IRIS.target),
    "pipeline": lambda: make_pipeline(StandardScaler(), SVC(probability=True)).fit(FLOWERS, NAMES),
    "xgboost": lambda: xgboost("XGBClassifier", FLOWERS, IRIS.target),
    "lightgbm": lambda: lightgbm("LGBMClassifier", FLOWERS, IRIS.target),
}
REGRESSORS: dict[str, Callable[[], Any]] = {
    "ridge": lambda: Ridge().fit(PATIENTS, PROGRESS),
    "boosting": lambda: HistGradientBoostingRegressor(max_iter=20).fit(PATIENTS, PROGRESS),
    "xgboost": lambda: xgboost("XGBRegressor", PATIENTS, PROGRESS),
    "lightgbm": lambda: lightgbm("LGBMRegressor", PATIENTS, PROGRESS),
}


@cache
def fitted(make: Callable[[], Any]) -> Any:
    return make()


def card_of(repository: Path) -> ModelCard:
    return ModelRepository(repository).get("net").card


def answers(repository: Path, rows: Any, output: str) -> Any:
    package = ModelRepository(repository).get("net")
    return open_runtime(package, "onnx")({"X": np.float32(rows)})[output]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_gives_its_classes_and_their_probabilities(name: str, tmp_path: Path) -> None:
    network = fitted(CLASSIFIERS[name])
    fitserve.save("net", network, FLOWERS[::5], repository=tmp_path)
    card = card_of(tmp_path)
    (output,) = (spec for spec in card.outputs if spec.name == "probabilities")
    assert output.labels == tuple(map(str, network.classes_))
    assert card.task == "classification"
    found = answers(tmp_path, FLOWERS, "probabilities")
    np.testing.assert_allclose(found, network.predict_proba(FLOWERS), atol=1e-5)


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_regressor_gives_its_prediction(name: str, tmp_path: Path) -> None:
    network = fitted(REGRESSORS[name])
    fitserve.save("net", network, PATIENTS[::9], repository=tmp_path)
    assert card_of(tmp_path).batching == "rows"
    found = answers(tmp_path, PATIENTS, "prediction")[:, 0]
    np.testing.assert_allclose(found, network.predict(PATIENTS), rtol=1e-4)


def test_other_estimators_give_their_own_outputs(tmp_path: Path) -> None:
    clusters = KMeans(3, n_init=1, random_state=0).fit(FLOWERS)
    fitserve.save("net", clusters, FLOWERS[::5], repository=tmp_path)
    np.testing.assert_array_equal(answers(tmp_path, FLOWERS, "label"), clusters.predict(FLOWERS))
    axes = PCA(2).fit(FLOWERS)
    fitserve.save("net", axes, FLOWERS[::5], repository=tmp_path)
    found = answers(tmp_path, FLOWERS, "prediction")
    np.testing.assert_allclose(found, axes.transform(FLOWERS), atol=1e-4)


def test_scores_of_two_classes_in_the_wrong_order_are_left_out(tmp_path: Path) -> None:
    network = SVC().fit(FLOWERS[:100], IRIS.target[:100])
    fitserve.save("net", network, FLOWERS[:100:5], repository=tmp_path)
    assert [spec.name for spec in card_of(tmp_path).outputs] == ["label"]
    found = answers(tmp_path, FLOWERS[:100], "label")
    np.testing.assert_array_equal(found, network.predict(FLOWERS[:100]))
    named = SVC().fit(FLOWERS[:100], NAMES[:100])
    fitserve.save("net", named, FLOWERS[:100:5], repository=tmp_path)
    assert answers(tmp_path, FLOWERS[:100], "label").tolist() == NAMES[:100].tolist()


def skops(file: Path) -> None:
    import skops.io

    skops.io.dump(fitted(CLASSIFIERS["logistic"]), file)


FILES: dict[str, Callable[[Path], Any]] = {
    "net.skops": skops,
    "net.json": lambda file: fitted(CLASSIFIERS["xgboost"]).save_model(file),
    "net.ubj": lambda file: fitted(CLASSIFIERS["xgboost"]).save_model(file),
    "net.txt": lambda file: fitted(REGRESSORS["lightgbm"]).booster_.save_model(file),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_library_is_added_by_its_content(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    FILES[name](tmp_path / name)
    is_table = name == "net.txt"
    rows, model = (PATIENTS, "lightgbm") if is_table else (FLOWERS, "xgboost")
    np.savez(tmp_path / "rows.npz", X=rows[::9])
    options = ["--sample", str(tmp_path / "rows.npz"), "--repository", str(tmp_path / "packages")]
    assert main(["add", "net", str(tmp_path / name), *options]) == 0, capfd.readouterr().err
    if is_table:
        found = answers(tmp_path / "packages", rows, "prediction")[:, 0]
        np.testing.assert_allclose(found, fitted(REGRESSORS[model]).predict(rows), rtol=1e-4)
        return
    network = fitted(CLASSIFIERS["logistic" if name == "net.skops" else model])
    found = answers(tmp_path / "packages", rows, "probabilities")
    np.testing.assert_allclose(found, network.predict_proba(rows), atol=1e-5)


def test_an_estimator_that_is_not_fitted_is_explained(tmp_path: Path) -> None:
    with pytest.raises(fitserve.ExportError, match=r"fails on the sample .*not fitted"):
        fitserve.save("net", Ridge(), PATIENTS[:9], repository=tmp_path)


def frame(rows: Any) -> Any:
    import pandas

    return pandas.DataFrame(rows, columns=["sepal length (cm)", "b", "2nd", "d"])


def test_columns_of_a_data_frame_may_have_any_name(tmp_path: Path) -> None:
    scaled = ColumnTransformer([("scaled", StandardScaler(), ["sepal length (cm)", "2nd"])])
    network = make_pipeline(scaled, LogisticRegression()).fit(frame(FLOWERS), NAMES)
    fitserve.save("net", network, frame(FLOWERS[::5]), repository=tmp_path)
    package = ModelRepository(tmp_path).get("net")
    names = [spec.name for spec in package.card.inputs]
    assert names == ["sepal_length__cm_", "b", "_2nd", "d"]
    columns = {name: np.float32(FLOWERS[:, [at]]) for at, name in enumerate(names)}
    found = open_runtime(package, "onnx")(columns)["probabilities"]
    np.testing.assert_allclose(found, network.predict_proba(frame(FLOWERS)), atol=1e-5)


def test_the_advice_for_a_data_frame_without_a_column_transformer_works(tmp_path: Path) -> None:
    network = LogisticRegression(max_iter=500).fit(frame(FLOWERS), NAMES)
    rows = frame(FLOWERS[::5])
    with pytest.raises(fitserve.ExportError, match=r"give sample=frame\.to_numpy\(\)"):
        fitserve.save("net", network, rows, repository=tmp_path)
    fitserve.save("net", network, rows.to_numpy(), repository=tmp_path)
    found = answers(tmp_path, FLOWERS, "probabilities")
    np.testing.assert_allclose(found, network.predict_proba(frame(FLOWERS)), atol=1e-5)


def test_boosting_takes_named_columns_and_classes_of_text(tmp_path: Path) -> None:
    named = xgboost("XGBClassifier", frame(FLOWERS), IRIS.target)
    fitserve.save("net", named, frame(FLOWERS[::5]), repository=tmp_path)
    assert named.get_booster().feature_names == list(frame(FLOWERS).columns)
    found = answers(tmp_path, FLOWERS, "probabilities")
    np.testing.assert_allclose(found, named.predict_proba(FLOWERS), atol=1e-5)
    texts = lightgbm("LGBMClassifier", FLOWERS, NAMES)
    fitserve.save("net", texts, FLOWERS[::5], repository=tmp_path)
    label, output = card_of(tmp_path).outputs
    assert (label.datatype, answers(tmp_path, FLOWERS, "label").tolist()) == (
        "BYTES", texts.predict(FLOWERS).tolist(),
    )  # fmt: skip
    assert output.labels == ("setosa", "versicolor", "virginica")
    found = answers(tmp_path, FLOWERS, "probabilities")
    np.testing.assert_allclose(found, texts.predict_proba(FLOWERS), atol=1e-5)


def test_a_linear_classifier_without_probabilities_gives_scores(tmp_path: Path) -> None:
    network = make_pipeline(StandardScaler(), LinearSVC()).fit(FLOWERS, NAMES)
    fitserve.save("net", network, FLOWERS[::5], repository=tmp_path)
    label, output = card_of(tmp_path).outputs
    assert (label.name, label.datatype, label.labels) == ("label", "BYTES", None)
    assert output.labels == ("setosa", "versicolor", "virginica")
    found = answers(tmp_path, FLOWERS, output.name)
    np.testing.assert_allclose(found, network.decision_function(FLOWERS), atol=1e-4)


TARGETS = np.column_stack([IRIS.target, IRIS.target % 2])


@pytest.mark.parametrize(
    ("make", "sample", "message"),
    [
        (lambda: RandomForestClassifier(3).fit(FLOWERS, TARGETS), FLOWERS, "several targets: fit"),
        (lambda: KNeighborsClassifier().fit(FLOWERS, TARGETS > 0), FLOWERS, "several targets: fit"),
        (lambda: xgboost("XGBRegressor", FLOWERS, TARGETS), FLOWERS, "several targets, whose"),
        (
            lambda: OneHotEncoder().fit(np.array([["a"], [None]], object)),
            np.array([["a"], [None]], object),
            r"lacks a text in some rows \(None\): fill it before the network",
        ),
        (
            lambda: OneHotEncoder().fit(np.array([["a"], ["1"]], object)),
            np.array([["a"], [1]], object),
            "holds a int among texts: make texts of all",
        ),
        (
            lambda: lightgbm("LGBMRegressor", FLOWERS, IRIS.target),
            FLOWERS.astype("U"),
            "not numbers: this library takes numbers only",
        ),
        (lambda: Ridge().fit(FLOWERS, IRIS.target), FLOWERS[0], r"is \[4\]: give an array \[rows"),
        (lambda: Ridge().fit(FLOWERS, IRIS.target), FLOWERS.tolist(), r"numpy\.array\(rows\)"),
    ],
)
def test_what_scikit_learn_cannot_export_is_explained(
    make: Callable[[], Any], sample: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(fitserve.ExportError, match=message) as caught:
        fitserve.save("net", make(), sample, repository=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("booster", ["gblinear", "dart"])
def test_a_booster_without_a_form_in_onnx_is_explained(booster: str, tmp_path: Path) -> None:
    import xgboost

    network = xgboost.XGBRegressor(n_estimators=2, booster=booster).fit(PATIENTS, PROGRESS)
    with pytest.raises(fitserve.ExportError, match=f"the booster {booster}, which has no form"):
        fitserve.save("net", network, PATIENTS[::9], repository=tmp_path)


KERAS = """
import fitserve, keras, numpy, sys
root = sys.argv[1]
rows = numpy.random.default_rng(0).normal(size=(5, 4)).astype("float32")
network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
fitserve.save("net", network, rows, repository=root)
numpy.savez(root + "/rows.npz", rows=rows, wanted=network.predict(rows, verbose=0))
class Sub(keras.Model):
    def call(self, rows):
        return network(rows)
for wrong, sample in (Sub(), rows), (network, rows[:, :3]), (network, numpy.array([["a"] * 4])):
    try:
        fitserve.save("wrong", wrong, sample, repository=root)
    except fitserve.ExportError as error:
        print(f"ExportError: {error}")
"""


def test_a_model_of_keras_on_torch_is_served_as_it_answers(tmp_path: Path) -> None:
    """Keras reads its backend at its first import: the test has a process of its own."""
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    command = [sys.executable, "-c", KERAS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    package = ModelRepository(tmp_path).get("net")
    given = np.load(tmp_path / "rows.npz")
    (found,) = open_runtime(package, "onnx")({package.card.inputs[0].name: given["rows"]}).values()
    np.testing.assert_allclose(found, given["wanted"], atol=1e-5)
    unbuilt, wrong_size, text = re.findall("^ExportError: (.*)$", done.stdout, re.MULTILINE)
    assert "states no inputs: call a Sequential on rows first" in unbuilt
    assert re.search(r"fails on the sample \(.*shape.*\): give rows", wrong_size, re.IGNORECASE)
    assert "the sample is no array of numbers" in text
