"""`add` finds where a network has its batch, and says so where it has none."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from layout_networks import (
    COLUMNS,
    FEATURES,
    NETWORKS,
    PICTURE,
    REPEATED,
    THRESHOLD,
    Arrays,
    detector,
    node,
    onnx_graph,
)
from onnx import TensorProto as T

from models.__main__ import main
from models.kinds.batch_axes import (
    BatchAxes,
    network_layout,
    row_shape,
    rows_first,
    shape_of_network,
)
from models.kinds.tensor_spec import TensorSpec
from models.package.card import ModelCard
from models.package.model_package import ModelPackage
from models.package.readme import render_page
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelPackage]:
    """Every network of `NETWORKS`, added once."""
    root = tmp_path_factory.mktemp("layouts")
    for name, network in NETWORKS.items():
        added(root, network.onnx, *network.options, name=name)
    return {name: ModelRepository(root).get(name) for name in NETWORKS}


def added(root: Path, content: bytes, *options: str, name: str = "net") -> int:
    file = root / f"{name}.onnx"
    file.write_bytes(content)
    return main(["add", name, str(file), "--repository", str(root), *options])


def own_answers(content: bytes, inputs: Arrays) -> dict[str, Any]:
    """Return the outputs of ONNX Runtime itself."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_axes_of_the_batch_are_found(name: str, packages: dict[str, ModelPackage]) -> None:
    card = packages[name].card
    assert card.axes.inputs | card.axes.outputs == NETWORKS[name].axes
    assert card.batching == NETWORKS[name].batching
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
    assert ("The batch: " in render_page(card)) == (not card.is_rows_first)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_package_computes_what_onnx_runtime_computes(
    name: str, packages: dict[str, ModelPackage]
) -> None:
    network, card = NETWORKS[name], packages[name].card
    runtime = open_runtime(packages[name], "onnx")
    for rows in (1, 3):
        inputs = network.request(rows, np.random.default_rng(rows))
        outputs = runtime(card.axes.inputs_rows_first(inputs, card.axes.count_rows(inputs) or 0))
        expected = own_answers(network.onnx, inputs)
        for output, array in card.axes.outputs_of_network(outputs).items():
            assert array.shape == expected[output].shape
            np.testing.assert_allclose(array, expected[output], rtol=1e-5, atol=1e-6)


def test_the_sizes_of_detections_are_free(packages: dict[str, ModelPackage]) -> None:
    shapes = {spec.name: spec.shape for spec in packages["detector"].card.outputs}
    assert shapes == {"boxes": (-1, 4), "confidences": (-1,)}
    assert packages["detector"].card.inputs[0].shape == (1, 1, 4, 4)


def test_values_that_a_graph_decides_by_are_proved_one_by_one(
    packages: dict[str, ModelPackage],
) -> None:
    card = packages["repeated"].card
    proved = [one["times"].data for one in card.batched_values]
    assert proved == [(2,), (3,)]
    assert any("times, requests with [2] or [3] are batched" in limit for limit in card.limits)
    assert packages["threshold"].card.batched_values == ()


def test_options_overrule_what_is_found(tmp_path: Path) -> None:
    square = onnx_graph(
        [node("Relu", ["x"], ["y"])], {"x": (T.FLOAT, ["a", "b"])}, {"y": (T.FLOAT, ["a", "b"])}
    )
    for options, axis in (((), 0), (("--batch-axis", "x=1"), 1), (("--no-batch",), None)):
        assert added(tmp_path, square, *options) == 0
        card = ModelRepository(tmp_path).get("net").card
        assert (card.inputs[0].batch_axis, card.outputs[0].batch_axis) == (axis, axis)
    assert card.batching == "none"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (THRESHOLD, ["--shared", "z"], "--shared names 'z', and the inputs are x, t"),
        (REPEATED, ["--shared", "times=0.5"], "--shared times=0.5 is no INT64: give such a value"),
        (COLUMNS, ["--batch-axis", "x=2"], "--batch-axis x=2: the input has the axes 0 to 1"),
        (COLUMNS, ["--batch-axis", "x=0"], "it has no batch as --batch-axis and --shared say"),
        (COLUMNS, ["--batch-axis", "x=0", "--shared", "x"], "both name 'x': give one of them"),
        (COLUMNS, ["--batch-axis", "x=0", "--no-batch"], "--no-batch excludes --batch-axis"),
    ],
)
def test_a_wrong_option_is_refused_with_advice(
    content: bytes,
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert added(tmp_path, content, *options) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--batch-axis", "x"], ["--shared", "=1"], ["--shared", "x=a"]])
def test_a_malformed_option_is_refused(option: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        added(tmp_path, COLUMNS, *option)


def test_a_sample_has_the_layout_of_the_network(tmp_path: Path) -> None:
    sample = tmp_path / "sample.npz"
    x = np.arange(12, dtype=np.float32).reshape(FEATURES, 3)
    np.savez(sample, x=x)
    assert added(tmp_path, COLUMNS, "--sample", str(sample)) == 0
    recorded = ModelRepository(tmp_path).get("net").card.example.inputs["x"].array()
    np.testing.assert_array_equal(recorded, x[:, :2])

    picture = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    np.savez(sample, x=picture)
    assert added(tmp_path, PICTURE, "--sample", str(sample)) == 0
    recorded = ModelRepository(tmp_path).get("net").card.example.inputs["x"].array()
    np.testing.assert_array_equal(recorded, picture)


def test_a_sample_has_one_value_of_what_rows_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = tmp_path / "sample.npz"
    x = np.zeros((2, FEATURES), np.float32)
    np.savez(sample, x=x, t=np.float32(0.5))
    assert added(tmp_path, THRESHOLD, "--sample", str(sample)) == 0
    np.savez(sample, x=x, t=np.float32([0.5, 1]))
    assert added(tmp_path, THRESHOLD, "--sample", str(sample)) == 1
    assert "it holds several values of t, which the rows share" in capsys.readouterr().err


def test_a_detector_that_finds_nothing_in_its_sample_is_added(tmp_path: Path) -> None:
    sample = tmp_path / "sample.npz"
    np.savez(sample, x=np.zeros((2, 1, 4, 4), np.float32))
    assert added(tmp_path, detector(), "--sample", str(sample)) == 0
    package = ModelRepository(tmp_path).get("net")
    assert package.card.example.outputs["boxes"].shape == (0, 4)
    ones = np.ones((1, 1, 4, 4), np.float32)
    assert open_runtime(package, "onnx")({"x": ones})["boxes"].shape == (1, 16, 4)


# The conversion.

LAYOUTS = st.tuples(array_shapes(min_dims=1, max_dims=4, max_side=3), st.integers(0, 3))


@given(LAYOUTS)
def test_to_rows_first_and_back_is_the_identity(layout: tuple[tuple[int, ...], int]) -> None:
    shape, place = layout
    array = np.arange(np.prod(shape)).reshape(shape)
    for axis in (None, place % len(shape)):
        rows = rows_first(array, axis, 2)
        assert rows.shape[1:] == row_shape(shape, axis)
        np.testing.assert_array_equal(network_layout(rows, axis), array)
        assert shape_of_network(rows.shape, axis) == shape


@given(LAYOUTS, st.data())
def test_a_specification_with_rows_first_and_back_is_the_same(
    layout: tuple[tuple[int, ...], int], data: st.DataObject
) -> None:
    shape, place = layout
    axis = data.draw(st.sampled_from((None, place % len(shape))))
    sizes = [-1 if index == axis else size for index, size in enumerate(shape)]
    free = tuple(index for index in range(len(shape)) if index != axis and data.draw(st.booleans()))
    spec = TensorSpec(
        name="x",
        datatype="FP32",
        shape=tuple(-1 if index in free else size for index, size in enumerate(sizes)),
        meaning="",
        nonempty=free,
        max_shape=tuple(sizes),
        batch_axis=axis,
    )
    assert spec.rows_first(-1).in_network(axis) == spec
    rows = (5, *row_shape(shape, axis))
    assert spec.rows_first(-1).takes(rows) == spec.takes(shape_of_network(rows, axis))


@given(st.data())
def test_rows_are_computed_in_any_layout(data: st.DataObject) -> None:
    """The sum of two inputs, whose rows are on any axes, has its rows on any axis."""
    first, second, out = (data.draw(st.integers(0, 2)) for _ in range(3))
    axes = BatchAxes({"a": first, "b": second, "t": None}, {"y": out, "t": None})
    a, b = np.random.default_rng(0).normal(size=(2, 4, 2, 3))
    rows = {"a": a, "b": b, "t": np.broadcast_to(np.float64(2), (4,))}

    def network(inputs: Arrays) -> Arrays:
        total = np.moveaxis(inputs["a"], first, 0) + np.moveaxis(inputs["b"], second, 0)
        return {"y": np.moveaxis(total * inputs["t"], 0, out), "t": inputs["t"]}

    computed = network(axes.inputs_of_network(rows))
    found = axes.outputs_rows_first(computed, 4)
    np.testing.assert_array_equal(found["y"], (a + b) * 2)
    np.testing.assert_array_equal(found["t"], np.full(4, 2.0))
