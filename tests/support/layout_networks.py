"""Networks whose batch is not the first dimension of every tensor, or that have none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper, numpy_helper

Arrays = Mapping[str, NDArray[Any]]
LAYERS, HIDDEN, FEATURES = 2, 3, 4


class Network(NamedTuple):
    """A network, and how a request of `rows` rows looks.

    Attributes:
        onnx: the file.
        request: the inputs of a request as the network takes them, by the number of rows and a
            generator of random numbers.
        axes: the axis of the batch by tensor, as `add` finds it.
        options: of `add`.
    """

    onnx: bytes
    request: Callable[[int, np.random.Generator], Arrays]
    axes: Mapping[str, int | None]
    batching: str = "rows"
    options: Sequence[str] = ()


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), list(outputs), **attributes)


def onnx_graph(
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[int, Sequence[int | str | None]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str | None]]],
    **constants: NDArray[Any],
) -> bytes:
    """Return a graph as an ONNX file; tensors are given as a datatype and a shape."""
    model = helper.make_model(
        helper.make_graph(
            list(nodes),
            "graph",
            [helper.make_tensor_value_info(name, *stated) for name, stated in inputs.items()],
            [helper.make_tensor_value_info(name, *stated) for name, stated in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    return bytes(model.SerializeToString())


def recurrent(kind: str) -> bytes:
    """Return an LSTM or a GRU over steps, with its state in and out as [layers, N, hidden]."""
    random = np.random.default_rng(0)
    gates = {"LSTM": 4, "GRU": 3}[kind] * HIDDEN
    states = ("h", "c")[: 2 if kind == "LSTM" else 1]
    return onnx_graph(
        [
            node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
            node(
                kind, ["steps", "w", "r", "", "", *states], ["", *(f"{name}n" for name in states)],
                hidden_size=HIDDEN, direction="bidirectional",
            ),
            node("Transpose", ["hn"], ["rows"], perm=[1, 0, 2]),
            node("ReduceMean", ["rows", "axes"], ["y"], keepdims=0),
        ],
        {
            "x": (T.FLOAT, ["N", 5, FEATURES]),
            **{name: (T.FLOAT, [LAYERS, "N", HIDDEN]) for name in states},
        },
        {
            "y": (T.FLOAT, ["N", HIDDEN]),
            **{f"{name}n": (T.FLOAT, [LAYERS, "N", HIDDEN]) for name in states},
        },
        w=random.normal(size=(2, gates, FEATURES)).astype(np.float32),
        r=random.normal(size=(2, gates, HIDDEN)).astype(np.float32),
        axes=np.array([1]),
    )  # fmt: skip


def _states(kind: str) -> Callable[[int, np.random.Generator], Arrays]:
    def request(rows: int, random: np.random.Generator) -> Arrays:
        arrays = {"x": (rows, 5, FEATURES), "h": (LAYERS, rows, HIDDEN)}
        if kind == "LSTM":
            arrays["c"] = (LAYERS, rows, HIDDEN)
        return {
            name: random.normal(size=shape).astype(np.float32) for name, shape in arrays.items()
        }

    return request


THRESHOLD = onnx_graph(
    [node("Greater", ["x", "t"], ["above"]), node("Cast", ["above"], ["y"], to=T.INT64)],
    {"x": (T.FLOAT, ["N", FEATURES]), "t": (T.FLOAT, [])},
    {"y": (T.INT64, ["N", FEATURES])},
)
"""Which numbers are above a threshold, which the rows share."""

BRANCH = onnx_graph(
    [
        node("Equal", ["rate", "slow"], ["is_slow"]),
        node(
            "If", ["is_slow"], ["y"],
            then_branch=helper.make_graph(
                [node("Neg", ["x"], ["a"])], "then",
                [], [helper.make_tensor_value_info("a", T.FLOAT, None)],
            ),
            else_branch=helper.make_graph(
                [node("Abs", ["x"], ["b"])], "else",
                [], [helper.make_tensor_value_info("b", T.FLOAT, None)],
            ),
        ),
    ],
    {"x": (T.FLOAT, ["N", FEATURES]), "rate": (T.INT64, [])},
    {"y": (T.FLOAT, ["N", FEATURES])},
    slow=np.array(8000),
)  # fmt: skip
"""A branch on a rate, which the rows share."""

REPEATED = onnx_graph(
    [
        node("Concat", ["one", "times"], ["sizes"], axis=0),
        node("Tile", ["x", "sizes"], ["tiled"]),
        node("ReduceSum", ["tiled", "axes"], ["y"]),
    ],
    {"x": (T.FLOAT, ["N", FEATURES]), "times": (T.INT64, [1])},
    {"y": (T.FLOAT, ["N", 1])},
    one=np.array([1]), axes=np.array([1]),
)  # fmt: skip
"""A size from an input, which the rows share."""

COLUMNS = onnx_graph(
    [node("Transpose", ["x"], ["rows"]), node("Softmax", ["rows"], ["y"], axis=-1)],
    {"x": (T.FLOAT, [FEATURES, "N"])},
    {"y": (T.FLOAT, ["N", FEATURES])},
)
"""The batch is last on the way in, first on the way out."""

PICTURE = onnx_graph(
    [
        node("ReduceMean", ["x", "axes"], ["channels"], keepdims=0),
        node("MatMul", ["channels", "w"], ["scores"]),
        node("Softmax", ["scores"], ["y"], axis=-1),
    ],
    {"x": (T.FLOAT, [3, 8, 8])},
    {"y": (T.FLOAT, [FEATURES])},
    axes=np.array([1, 2]),
    w=np.random.default_rng(0).normal(size=(3, FEATURES)).astype(np.float32),
)
"""One picture without a batch, and the scores of its classes."""

NUMBER = onnx_graph([node("Mul", ["x", "x"], ["y"])], {"x": (T.FLOAT, [])}, {"y": (T.FLOAT, [])})
"""A single value in, a single value out."""

SUM = onnx_graph(
    [node("ReduceSum", ["x", "first"], ["y"], keepdims=0)],
    {"x": (T.FLOAT, ["N", FEATURES])},
    {"y": (T.FLOAT, [FEATURES])},
    first=np.array([0]),
)
"""One sum over all rows."""


def detector(batch: int | str = 1) -> bytes:
    """Return boxes of a picture after non-maximum suppression: as many as its pixels say."""
    places = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1).reshape(1, 16, 2)
    corners = np.concatenate([places, places + 1], -1).astype(np.float32)
    return onnx_graph(
        [
            node("Reshape", ["x", "flat"], ["scores"]),  # [1, 1, 16]
            node("NonMaxSuppression", ["corners", "scores", "most", "overlap", "least"], ["found"]),
            node("Gather", ["found", "two"], ["place"], axis=1),
            node("Squeeze", ["corners", "zero"], ["boxes_of_places"]),
            node("Gather", ["boxes_of_places", "place"], ["boxes"], axis=0),
            node("Reshape", ["x", "line"], ["values"]),
            node("Gather", ["values", "place"], ["confidences"], axis=0),
        ],
        {"x": (T.FLOAT, [batch, 1, 4, 4])},
        {"boxes": (T.FLOAT, ["found", 4]), "confidences": (T.FLOAT, ["found"])},
        flat=np.array([1, 1, 16]), line=np.array([16]), corners=corners,
        most=np.array([16]), overlap=np.array([0.5], np.float32),
        least=np.array([0.5], np.float32), two=np.array(2), zero=np.array([0]),
    )  # fmt: skip


def _normal(**shapes: Sequence[int]) -> Callable[[int, np.random.Generator], Arrays]:
    """Return normal numbers; 0 in a shape stands for the rows."""

    def request(rows: int, random: np.random.Generator) -> Arrays:
        return {
            name: np.asarray(random.normal(size=[size or rows for size in shape]), np.float32)
            for name, shape in shapes.items()
        }

    return request


def _shared(name: str, values: NDArray[Any]) -> Callable[[int, np.random.Generator], Arrays]:
    def request(rows: int, random: np.random.Generator) -> Arrays:
        x = random.normal(size=(rows, FEATURES)).astype(np.float32)
        return {"x": x, name: np.asarray(values[random.integers(len(values))])}

    return request


NETWORKS: Mapping[str, Network] = {
    "lstm": Network(
        recurrent("LSTM"), _states("LSTM"), {"x": 0, "h": 1, "c": 1, "y": 0, "hn": 1, "cn": 1}
    ),
    "gru": Network(recurrent("GRU"), _states("GRU"), {"x": 0, "h": 1, "y": 0, "hn": 1}),
    "threshold": Network(
        THRESHOLD, _shared("t", np.array([0.25, -0.5, 1], np.float32)), {"x": 0, "t": None, "y": 0}
    ),
    "branch": Network(
        BRANCH, _shared("rate", np.array([8000, 16000])), {"x": 0, "rate": None, "y": 0},
        options=("--shared", "rate=8000,16000"),
    ),
    "repeated": Network(
        REPEATED, _shared("times", np.array([[1], [2], [3]])), {"x": 0, "times": None, "y": 0},
        options=("--shared", "times=2,3"),
    ),
    "columns": Network(COLUMNS, _normal(x=(FEATURES, 0)), {"x": 1, "y": 0}),
    "picture": Network(PICTURE, _normal(x=(3, 8, 8)), {"x": None, "y": None}, "none"),
    "number": Network(NUMBER, _normal(x=()), {"x": None, "y": None}, "none"),
    "sum": Network(SUM, _normal(x=(0, FEATURES)), {"x": 0, "y": None}, "none"),
    "detector": Network(
        detector(), _normal(x=(1, 1, 4, 4)), {"x": 0, "boxes": None, "confidences": None}, "none"
    ),
    "free-detector": Network(
        detector("N"), _normal(x=(1, 1, 4, 4)), {"x": 0, "boxes": None, "confidences": None},
        "none",
    ),
}  # fmt: skip
