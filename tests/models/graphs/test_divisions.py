"""An integer division that a caller can make end the process is refused; all others are taken."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper
from small_packages import onnx_file

from models.adding.add import add
from models.errors import AddError
from models.graphs.crashes import crash
from models.graphs.divisions import dangerous_division

node = helper.make_node
ROWS: Any = ["batch", 4]


def divided(kind: str, dtype: int, by: Any = None) -> bytes:
    """`x`, and a constant or the input `d`, as one division."""
    inputs = [("x", dtype, ROWS)]
    constants = {}
    if by is None:
        inputs.append(("d", dtype, ROWS))
    else:
        constants["d"] = np.array(by, helper.tensor_dtype_to_np_dtype(dtype))
    return onnx_file([node(kind, ["x", "d"], ["y"])], inputs, [("y", dtype, ROWS)], **constants)


@pytest.mark.parametrize("dtype", [T.INT32, T.INT64])
@pytest.mark.parametrize("kind", ["Div", "Mod"])
@pytest.mark.parametrize("by", [None, [-1], [2, -1, 3, 4]])
def test_a_division_whose_divisor_may_be_minus_one_is_refused(
    kind: str, dtype: int, by: Any, tmp_path: Path
) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(divided(kind, dtype, by))
    with pytest.raises(AddError, match=rf"{kind} \(y\) divides integers by a number"):
        add(tmp_path / "repository", "net", file)


@pytest.mark.parametrize("kind", ["Div", "Mod"])
def test_one_inside_a_branch_is_found(kind: str) -> None:
    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        [node(kind, ["x", "x"], ["inner"])], "inner", [], [value("inner", T.INT64, None)]
    )
    other = helper.make_graph(
        [node("Identity", ["x"], ["same"])], "other", [], [value("same", T.INT64, None)]
    )
    nodes = [
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Cast", ["most"], ["is_some"], to=T.BOOL),
        node("If", ["is_some"], ["y"], then_branch=inner, else_branch=other),
    ]
    content = onnx_file(nodes, [("x", T.INT64, ROWS)], [("y", T.INT64, ROWS)])
    assert dangerous_division(onnx.load_model_from_string(content)) == f"{kind} (inner)"


@pytest.mark.parametrize(
    "content",
    [
        divided("Div", T.INT64, 2),
        divided("Mod", T.INT32, [3, 5, 7, 9]),
        divided("Div", T.FLOAT, -1.0),
        divided("Div", T.FLOAT),
        onnx_file(
            [
                node("Shape", ["x"], ["shape"]),
                node("Neg", ["one"], ["minus"]),
                node("Div", ["shape", "minus"], ["turned"]),
                node("Neg", ["turned"], ["sizes"]),
                node("Reshape", ["x", "sizes"], ["y"]),
            ],
            [("x", T.FLOAT, ROWS)],
            [("y", T.FLOAT, ROWS)],
            one=np.array([1]),
        ),
    ],
    ids=["by two", "rest", "floats by -1", "floats by floats", "a shape"],
)
def test_any_other_division_is_taken(content: bytes) -> None:
    assert dangerous_division(onnx.load_model_from_string(content)) is None


def test_the_advice_is_taken(tmp_path: Path) -> None:
    """Divided as FP64, the least integer by -1 is an answer."""
    nodes = [
        node("Cast", ["x"], ["a"], to=T.DOUBLE),
        node("Cast", ["d"], ["b"], to=T.DOUBLE),
        node("Div", ["a", "b"], ["c"]),
        node("Cast", ["c"], ["y"], to=T.INT64),
    ]
    content = onnx_file(nodes, [("x", T.INT64, ROWS), ("d", T.INT64, ROWS)], [("y", T.INT64, ROWS)])
    file = tmp_path / "network.onnx"
    file.write_bytes(content)
    package = add(tmp_path / "repository", "net", file, sample=rows(tmp_path))
    assert package.card.batching == "rows"


def rows(folder: Path) -> Path:
    """Some rows without a divisor of 0."""
    path = folder / "rows.npz"
    np.savez(path, x=np.arange(8).reshape(2, 4), d=np.full((2, 4), 3))
    return path


def in_a_function() -> bytes:
    """A division in a function of another opset."""
    function = helper.make_function(
        "own", "Divide", ["a", "b"], ["c"], [node("Div", ["a", "b"], ["c"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node("Divide", ["x", "x"], ["y"], domain="own")], "g",
        [value("x", T.INT64, ROWS)], [value("y", T.INT64, ROWS)],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=9)
    return model.SerializeToString()


def behind_another_domain() -> bytes:
    """A division of integers whose types onnx does not infer."""
    value = helper.make_tensor_value_info
    nodes = [
        node("Trilu", ["x"], ["a"], domain="com.microsoft"),
        node("Div", ["a", "a"], ["q"]),
        node("Trilu", ["q"], ["y"], domain="com.microsoft"),
    ]
    tensors = [value(name, T.INT64, ["batch", 2, 2]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString()


def by_a_length() -> bytes:
    """The least integer divided by the length less 101."""
    nodes = [
        node("Shape", ["x"], ["length"], start=1),
        node("Sub", ["length", "less"], ["divisor"]),
        node("Mod", ["least", "divisor"], ["rest"]),
        node("Cast", ["rest"], ["number"], to=T.FLOAT),
        node("Add", ["x", "number"], ["y"]),
    ]
    shape: Any = ["batch", "length"]
    return onnx_file(nodes, [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)],
                     less=np.array([101]), least=np.array([-(2**63)]))  # fmt: skip


@pytest.mark.parametrize("make", [in_a_function, behind_another_domain, by_a_length])
def test_a_division_that_is_hard_to_find_is_refused(make: Any, tmp_path: Path) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(make())
    with pytest.raises(AddError, match="divides integers by a number that a request may make -1"):
        add(tmp_path / "repository", "net", file)


UNSAFE = {
    "frames of a computed length": node("STFT", ["x", "step", "", "length"], ["y"]),
    "channels last": node("QLinearAveragePool", list("xszsz"), ["y"], domain="com.microsoft",
                          kernel_shape=[2, 2], channels_last=1),
    "as many samples as a box is large": node("RoiAlign", ["x", "boxes", "indices"], ["y"]),
    "outputs without names": node("BatchNormalization", list("xaaaa"), ["y", "", ""]),
    "numbers that are not set": node("LinearClassifier", ["x"], ["y", "z"], domain="ai.onnx.ml",
                                     post_transform="PROBIT", coefficients=[1.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("is_inner", [False, True])
def test_an_operator_that_is_not_safe_to_compute_is_named(name: str, is_inner: bool) -> None:
    nodes = [UNSAFE[name]]
    if is_inner:
        body = helper.make_graph(nodes, "inner", [], [])
        nodes = [node("If", ["x"], ["y"], then_branch=body, else_branch=body)]
    reason = crash(helper.make_model(helper.make_graph(nodes, "g", [], [])))
    assert reason is not None
    assert reason.startswith(f"{UNSAFE[name].op_type} (y) ")


def test_frames_of_a_constant_length_are_taken() -> None:
    constants = [onnx.numpy_helper.from_array(np.array(4), name) for name in ("step", "length")]
    frames = UNSAFE["frames of a computed length"]
    assert crash(helper.make_model(helper.make_graph([frames], "g", [], [], constants))) is None
