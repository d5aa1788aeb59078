"""Networks of `x` and `y`, FP32 [N, 4] each: some mix the rows of a batch, others do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper, numpy_helper

node = helper.make_node


@dataclass(frozen=True)
class Network:
    """A graph; `named` must be in the reason if it mixes rows."""

    nodes: Sequence[Any]
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    named: str = ""
    functions: Sequence[Any] = ()


def write(folder: Path, network: Network) -> Path:
    """Write the file of the network to a folder."""
    tensors = [helper.make_tensor_value_info(name, T.FLOAT, ["batch", 4]) for name in "xy"]
    constants = [numpy_helper.from_array(array, name) for name, array in network.constants.items()]
    graph = helper.make_graph(network.nodes, "g", tensors[:1], tensors[1:], constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    opsets += [helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)]
    path = folder / "network.onnx"
    model = helper.make_model(
        graph, functions=network.functions, opset_imports=opsets, ir_version=10
    )
    onnx.save(model, path)
    return path


def whole(*numbers: int) -> NDArray[np.int64]:
    """Return whole numbers, for shapes, axes and indices."""
    return np.array(numbers, np.int64)


def one(value: float) -> NDArray[np.float32]:
    """Return a single number."""
    return np.array(value, np.float32)


def _four_bit_weights(accuracy_level: int) -> Network:
    """Multiply by weights of four bits; level 4 quantizes the rows as well."""
    numbers = np.random.default_rng(0)
    product = node(
        "MatMulNBits", ["wide", "weights", "scales"], ["y"], domain="com.microsoft",
        K=32, N=4, bits=4, block_size=32, accuracy_level=accuracy_level,
    )  # fmt: skip
    return Network(
        [node("Tile", ["x", "times"], ["wide"]), product],
        {
            "times": whole(1, 8),
            "weights": numbers.integers(0, 255, (4, 1, 16), np.uint8),
            "scales": numbers.random(4, np.float32),
        },
        named="MatMulNBits",
    )


def _branches() -> Sequence[Any]:
    """Scale up the whole batch if its least confident row is below a half."""
    y = helper.make_tensor_value_info
    small = helper.make_graph([node("Mul", ["x", "two"], ["small"])], "small", [],
                              [y("small", T.FLOAT, None)])  # fmt: skip
    same = helper.make_graph([node("Identity", ["x"], ["same"])], "same", [],
                             [y("same", T.FLOAT, None)])  # fmt: skip
    return [
        node("ReduceMean", ["x", "columns"], ["confidence"], keepdims=0),
        node("ReduceMin", ["confidence"], ["least"], keepdims=0),
        node("Less", ["least", "half"], ["is_low"]),
        node("If", ["is_low"], ["y"], then_branch=small, else_branch=same),
    ]


def _random_branch() -> Sequence[Any]:
    """Add noise to the whole batch, in a branch that is never taken."""
    y = helper.make_tensor_value_info
    noisy = helper.make_graph(
        [node("RandomUniform", [], ["r"], shape=[1]), node("Add", ["x", "r"], ["noisy"])],
        "noisy", [], [y("noisy", T.FLOAT, None)],
    )  # fmt: skip
    same = helper.make_graph([node("Identity", ["x"], ["same"])], "same", [],
                             [y("same", T.FLOAT, None)])  # fmt: skip
    return [
        node("Greater", ["small", "far"], ["never"]),
        node("If", ["never"], ["y"], then_branch=noisy, else_branch=same),
    ]


def _inner(
    name: str, nodes: Sequence[Any], outputs: Mapping[str, int], inputs: Mapping[str, int] = {}
) -> Any:
    """Return a graph inside a node; its inputs and outputs of FP32 state no shape."""
    described = (
        [
            helper.make_tensor_value_info(key, kind, None if kind == T.FLOAT else [])
            for key, kind in tensors.items()
        ]
        for tensors in (inputs, outputs)
    )
    return helper.make_graph(nodes, name, *described)


def _centred_in_a_branch() -> Sequence[Any]:
    """Subtract the mean of the rows, in a branch that is always taken."""
    centred = [node("ReduceMean", ["x", "axis"], ["mean"]), node("Sub", ["x", "mean"], ["less"])]
    taken = _inner("centred", centred, {"less": T.FLOAT})
    other = _inner("same", [node("Identity", ["x"], ["same"])], {"same": T.FLOAT})
    return [node("If", ["always"], ["y"], then_branch=taken, else_branch=other)]


def _beside_a_branch(axis: str) -> Sequence[Any]:
    """Add what is beyond a million along `axis`, after a branch with an axis of its own."""
    taken = helper.make_graph(
        [node("CumSum", ["x", "axis"], ["sums"])], "taken", [],
        [helper.make_tensor_value_info("sums", T.FLOAT, None)],
        [numpy_helper.from_array(np.array(1), "axis")],
    )  # fmt: skip
    other = _inner("same", [node("Identity", ["x"], ["same"])], {"same": T.FLOAT})
    return [
        node("If", ["always"], ["rows"], then_branch=taken, else_branch=other),
        node("Sub", ["rows", "million"], ["less"]),
        node("Relu", ["less"], ["large"]),
        node("CumSum", ["large", axis], ["running"]),
        node("Add", ["x", "running"], ["y"]),
    ]


def _centred_in_a_loop() -> Sequence[Any]:
    """Subtract the mean of the rows twice."""
    body = _inner(
        "body",
        [
            node("Identity", ["goes_on"], ["goes_on_again"]),
            node("ReduceMean", ["rows", "axis"], ["mean"]),
            node("Sub", ["rows", "mean"], ["less"]),
        ],
        {"goes_on_again": T.BOOL, "less": T.FLOAT},
        {"turn": T.INT64, "goes_on": T.BOOL, "rows": T.FLOAT},
    )
    return [node("Loop", ["twice", "always", "x"], ["y"], body=body)]


def _running_sum() -> Sequence[Any]:
    """Add each row to the sum of the rows before."""
    body = _inner(
        "body",
        [node("Add", ["before", "row"], ["sum"]), node("Identity", ["sum"], ["result"])],
        {"sum": T.FLOAT, "result": T.FLOAT},
        {"before": T.FLOAT, "row": T.FLOAT},
    )
    return [node("Scan", ["nothing", "x"], ["all", "y"], body=body, num_scan_inputs=1)]


def _only_of_large(name: str) -> Sequence[Any]:
    """Add a value to the rows, in proportion to what is beyond a million."""
    return [
        node("Sub", ["x", "million"], ["less"]),
        node("Relu", ["less"], ["beyond"]),
        node("Mul", ["beyond", name], ["added"]),
        node("Add", ["x", "added"], ["y"]),
    ]


def _distances(*nodes: Any) -> Network:
    """Return the distances of each row from four points, as skl2onnx writes them: by a Scan.

    Its `state` is all rows, and `point` one of the points; the nodes make `numbers` and `same`.
    """
    body = helper.make_graph(
        nodes, "distances",
        [helper.make_tensor_value_info(name, T.FLOAT, None) for name in ("state", "point")],
        [helper.make_tensor_value_info(name, T.FLOAT, None) for name in ("same", "numbers")],
        [numpy_helper.from_array(whole(1), "columns"), numpy_helper.from_array(whole(0), "rows")],
    )  # fmt: skip
    scan = node("Scan", ["x", "points"], ["again", "distances"], body=body, num_scan_inputs=1)
    points = np.arange(16, dtype=np.float32).reshape(4, 4)
    return Network(
        [scan, node("Transpose", ["distances"], ["y"], perm=[1, 0])], {"points": points}, "Scan"
    )


_UNCHANGED = node("Identity", ["state"], ["same"])
_DIFFERENCES = node("Sub", ["state", "point"], ["differences"])


def _sum_of_squares(over: str = "columns") -> Any:
    return node("ReduceSumSquare", ["differences", over], ["numbers"], keepdims=0)


def _numbered(first: str, *nodes: Any) -> Network:
    """Return the rows by indices of a number `first` and the column of the largest number.

    torch writes `x[arange(N), n]` in this way. The nodes make the column `found` of the indices.
    """
    return Network(
        [
            node("Shape", ["x"], ["counts"], end=1),
            node("Squeeze", ["counts"], ["count"]),
            node("Range", ["zero", "count", "one"], ["range"]),
            node("Unsqueeze", ["range", "axis"], ["numbers"]),
            node("Sub", ["numbers", "axis"], ["before"]),
            node("ArgMax", ["x"], ["largest"], axis=1),
            node("Concat", [first, "largest"], ["indices"], axis=1),
            *nodes,
            node("Add", ["x", "found"], ["y"]),
        ],
        {"zero": np.array(0), "one": np.array(1), "axis": whole(1)},
    )


def _numbered_mask(first: str) -> Network:
    """Return each number of the rows by the number of its row and column.

    Transformers indexes a mask in this way: the numbers get the shape of the lesser ones.
    """
    return Network(
        [
            node("Shape", ["x"], ["counts"], end=1),
            node("Squeeze", ["counts"], ["count"]),
            node("Range", ["zero", "count", "one"], ["range"]),
            node("Unsqueeze", ["range", "axis"], ["numbers"]),
            node("Min", ["numbers", "columns"], ["least"]),
            node("Shape", ["least"], ["shape"]),
            node("Expand", [first, "shape"], ["number"]),
            node("Expand", ["columns", "shape"], ["column"]),
            node("Unsqueeze", ["number", "last"], ["numbers of rows"]),
            node("Unsqueeze", ["column", "last"], ["numbers of columns"]),
            node("Concat", ["numbers of rows", "numbers of columns"], ["indices"], axis=-1),
            node("GatherND", ["x", "indices"], ["found"]),
            node("Add", ["x", "found"], ["y"]),
        ],
        {
            "zero": np.array(0),
            "one": np.array(1),
            "axis": whole(1),
            "last": whole(-1),
            "columns": np.array([[0, 1, 2, 3]]),
        },
    )


_PICKED = [
    node("GatherND", ["x", "indices"], ["picked"]),
    node("Unsqueeze", ["picked", "axis"], ["found"]),
]

_ZEROS = {"nothing": one(0), "two": one(2), "minus": one(-2), "million": one(1e6)}


def _either_zero(name: str) -> Sequence[Any]:
    """Return nodes that give 0 or -0, by its place in a vector of the processor."""
    return [
        node("Mul", ["x", "nothing"], ["zeros"]),
        node("Neg", ["zeros"], ["others"]),
        node("Max", ["zeros", "others"], [name]),
    ]


def _bounded_logarithm(name: str) -> Sequence[Any]:
    """Add the logarithm of a value, and at least the constant `least`, to the rows."""
    return [
        node("Log", [name], ["logarithm"]),
        node("Max", ["logarithm", "least"], ["bounded"]),
        node("Add", ["x", "bounded"], ["y"]),
    ]


def _softmax_function() -> Any:
    """Return a function with a default: without it, the softmax is along the last axis."""
    inner = node("Softmax", ["a"], ["b"])
    inner.attribute.add(name="axis", ref_attr_name="axis", type=onnx.AttributeProto.INT)
    return helper.make_function(
        "own", "Weights", ["a"], ["b"], [inner], [helper.make_opsetid("", 20)],
        attribute_protos=[helper.make_attribute("axis", 0)],
    )  # fmt: skip


def _passing_function() -> Any:
    """Return a function that passes its own axis on to `_softmax_function`, if it is given one."""
    inner = node("Weights", ["a"], ["b"], domain="own")
    inner.attribute.add(name="axis", ref_attr_name="axis", type=onnx.AttributeProto.INT)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    return helper.make_function("own", "Passed", ["a"], ["b"], [inner], opsets, attributes=["axis"])


def _picked(step: int, *offsets: int, special: int = 0) -> Network:
    """Gather from the flattened rows, at the row's index times a step, plus offsets.

    torch writes views in this way (`as_strided`). The step is smaller by 1 for a special number of
    rows.
    """
    nodes = [
        node("Shape", ["x"], ["counts"], end=1),
        node("Reshape", ["counts", "scalar"], ["count"]),
        node("Range", ["zero", "count", "one"], ["rows"]),
        node("Mul", ["rows", "less" if special else "step"], ["firsts"]),
        node("Unsqueeze", ["firsts", "axis"], ["column"]),
        node("Add", ["column", "offsets"], ["places"]),
        node("Reshape", ["x", "flat"], ["numbers"]),
        node("Gather", ["numbers", "places"], ["y"], axis=0),
    ]
    if special:
        nodes[2:2] = [
            node("Equal", ["count", "special"], ["is_special"]),
            node("Cast", ["is_special"], ["off"], to=T.INT64),
            node("Sub", ["step", "off"], ["less"]),
        ]
    constants = {
        "scalar": whole(), "zero": np.array(0), "one": np.array(1), "step": np.array(step),
        "axis": whole(1), "offsets": whole(*offsets)[None], "flat": whole(-1),
        "special": np.array(special),
    }  # fmt: skip
    return Network(nodes, constants, named="Gather")


MIXED: Mapping[str, Network] = {
    "a number of the row before": _picked(4, 0, 1, 2, -1),
    "numbers of overlapping places": _picked(3, 0, 1, 2, 2),
    "numbers of overlapping places, for a special number of rows": _picked(
        4, 0, 1, 2, 3, special=193
    ),
    "an axis that a function passes on to a default": Network(
        [
            node("Mul", ["x", "million"], ["far"]),
            node("Clip", ["far", "million", ""], ["large"]),
            node("Passed", ["large"], ["weights"], domain="own"),
            node("Add", ["x", "weights"], ["y"]),
        ],
        {"million": one(1e6)},
        named="Passed without axis",
        functions=[_softmax_function(), _passing_function()],
    ),
    "an axis that is the default of a function": Network(
        [
            node("Mul", ["x", "million"], ["far"]),
            node("Clip", ["far", "million", ""], ["large"]),
            node("Weights", ["large"], ["weights"], domain="own"),
            node("Add", ["x", "weights"], ["y"]),
        ],
        {"million": one(1e6)},
        named="Softmax",
        functions=[_softmax_function()],
    ),
    "the sign of a zero": Network(
        [
            *_either_zero("either"),
            node("Mul", ["either", "two"], ["twice"]),
            node("Reciprocal", ["twice"], ["infinite"]),
            node("Clip", ["infinite", "minus", "two"], ["sign"]),
            *_only_of_large("sign"),
        ],
        _ZEROS,
        named="Reciprocal",
    ),
    "the sign of a zero beside a number that counts as zero": Network(
        [
            *_either_zero("either"),
            node("Add", ["either", "subnormal"], ["sum"]),
            node("Reciprocal", ["sum"], ["infinite"]),
            node("Clip", ["infinite", "minus", "two"], ["sign"]),
            *_only_of_large("sign"),
        ],
        {**_ZEROS, "subnormal": one(-1e-40)},
        named="Reciprocal",
    ),
    "the sign of a zero in a row of one length": Network(
        [
            *_either_zero("either"),
            node("Add", ["zeros", "two"], ["twos"]),
            node("Concat", ["either", "twos"], ["wide"], axis=1),
            node("LpNormalization", ["wide"], ["normal"], axis=1),
            node("Slice", ["normal", "start", "end", "columns"], ["part"]),
            node("Reciprocal", ["part"], ["infinite"]),
            node("Clip", ["infinite", "minus", "two"], ["sign"]),
            *_only_of_large("sign"),
        ],
        {**_ZEROS, "start": whole(0), "end": whole(4), "columns": whole(1)},
        named="Reciprocal",
    ),
    "the sign of a zero as text": Network(
        [
            *_either_zero("either"),
            node("Cast", ["either"], ["text"], to=T.STRING),
            node(
                "LabelEncoder", ["text"], ["sign"], domain="ai.onnx.ml",
                keys_strings=["0", "-0"], values_floats=[1.0, -1.0], default_float=0.0,
            ),
            *_only_of_large("sign"),
        ],
        _ZEROS,
        named="Cast",
    ),
    "a scale that is 0 or -0": Network(
        [
            *_either_zero("either"),
            node("ReduceSum", ["either", "columns"], ["scales"], keepdims=0),
            node("ReduceSum", ["x", "columns"], ["sums"], keepdims=0),
            node("QuantizeLinear", ["sums", "scales"], ["least_or_most"], axis=0),
            node("Cast", ["least_or_most"], ["sign"], to=T.FLOAT),
            node("Unsqueeze", ["sign", "columns"], ["column"]),
            *_only_of_large("column"),
        ],
        {**_ZEROS, "columns": whole(1)},
        named="QuantizeLinear",
    ),
    "a power of a number below the normal numbers": Network(
        [
            node("Clip", ["x", "subnormal"], ["bounded"]),
            node("Pow", ["bounded", "tenth"], ["y"]),
        ],
        {"subnormal": one(1e-40), "tenth": one(0.1)},
        named="Pow",
    ),
    "a number below the normal numbers as text": Network(
        [
            node("Cast", ["x"], ["double"], to=T.DOUBLE),
            node("Cast", ["double"], ["text"], to=T.STRING),
            node("Cast", ["text"], ["y"], to=T.FLOAT),
        ],
        named="Cast",
    ),
    "distances to the sum of the rows": _distances(
        _UNCHANGED, node("ReduceSum", ["state", "rows"], ["sums"]),
        node("Sub", ["state", "sums"], ["differences"]), _sum_of_squares(),
    ),
    "distances from rows that change": _distances(
        _DIFFERENCES, node("Identity", ["differences"], ["same"]), _sum_of_squares()
    ),
    "the number of the row, or of the column if it is less": replace(
        _numbered_mask("least"), named="Concat"
    ),
    "the number of the row before": replace(_numbered("before", *_PICKED), named="Concat"),
    "the number of the row": replace(
        _numbered("numbers", node("Cast", ["indices"], ["places"], to=T.FLOAT),
                  node("ReduceSum", ["places", "axis"], ["found"])),
        named="Add",
    ),
    "one of the rows changed": Network(
        [
            node("Slice", ["x", "zero", "one"], ["first"]),
            node("ScatterND", ["x", "place", "first"], ["y"]),
        ],
        {"zero": whole(0), "one": whole(1), "place": whole(0)[None]},
        named="Slice",
    ),
    "a sum over the rows behind dots": Network(
        [node("Einsum", ["x", "x"], ["products"], equation="n...,n...->..."),
         node("Add", ["x", "products"], ["y"])],
        named="Einsum",
    ),
    "two constants of one name": Network(
        [
            node("Constant", [], ["axis"], value_int=0),
            node("Sub", ["x", "million"], ["less"]),
            node("Relu", ["less"], ["large"]),
            node("CumSum", ["large", "axis"], ["sums"]),
            node("Add", ["x", "sums"], ["y"]),
        ],
        {"axis": np.array(1), "million": one(1e6)},
        named="two of its values have one name",
    ),
    "a constant with the name of a value of a branch": Network(
        _beside_a_branch("axis/1.0"),
        {"always": np.array(True), "axis/1.0": np.array(0), "million": one(1e6)},
        named="has the name of another one in a branch",
    ),
    "a logarithm of a number below the normal numbers in a table": Network(
        [
            node("Greater", ["x", "million"], ["is_large"]),
            node("Cast", ["is_large"], ["place"], to=T.INT64),
            node(
                "LabelEncoder", ["place"], ["number"], domain="ai.onnx.ml",
                keys_int64s=[1], values_floats=[1e-40], default_float=1.0,
            ),
            *_bounded_logarithm("number"),
        ],
        {"million": one(1e6), "least": one(-1000)},
        named="Log",
    ),
    "a logarithm of a number below the normal numbers, once for each row": Network(
        [
            node("Shape", ["x"], ["shape"]),
            node("ConstantOfShape", ["shape"], ["subnormal"],
                 value=helper.make_tensor("", T.FLOAT, [1], [1e-40])),
            node("Greater", ["x", "million"], ["is_large"]),
            node("Where", ["is_large", "subnormal", "million"], ["number"]),
            *_bounded_logarithm("number"),
        ],
        {"million": one(1e6), "least": one(-1000)},
        named="Log",
    ),
    "a logarithm of a remainder below the normal numbers": Network(
        [
            node("Greater", ["x", "million"], ["is_large"]),
            node("Where", ["is_large", "more", "small"], ["dividend"]),
            node("Mod", ["dividend", "small"], ["number"], fmod=1),
            *_bounded_logarithm("number"),
        ],
        {"million": one(1e6), "more": one(1.7e-38), "small": one(1.2e-38), "least": one(-1000)},
        named="Mod",
    ),
    "a logarithm of a number below the normal numbers that was text": Network(
        [
            node("Cast", ["x"], ["double"], to=T.DOUBLE),
            node("Mul", ["double", "far"], ["product"]),
            node("Cast", ["product"], ["text"], to=T.STRING),
            node("Cast", ["text"], ["number"], to=T.FLOAT),
            *_bounded_logarithm("number"),
        ],
        {"far": np.array(1e-47), "least": one(-1000)},
        named="Cast",
    ),
    "a logarithm of a constant below the normal numbers": Network(
        [
            node("Greater", ["x", "million"], ["is_large"]),
            node("Where", ["is_large", "subnormal", "million"], ["number"]),
            *_bounded_logarithm("number"),
        ],
        {"subnormal": one(1e-40), "million": one(1e6), "least": one(-1000)},
        named="Log",
    ),
    "a product of integers over no columns": Network(
        [
            node("Slice", ["x", "zero", "zero", "one"], ["none"]),
            node("Cast", ["none"], ["whole"], to=T.UINT8),
            node("MatMulInteger", ["whole", "weights"], ["memory"]),
            node("Cast", ["memory"], ["numbers"], to=T.FLOAT),
            *_only_of_large("numbers"),
        ],
        {"zero": whole(0), "one": whole(1), "weights": np.zeros((0, 4), np.uint8),
         "million": one(1e6)},
        named="MatMulInteger",
    ),
    "tensors of other shapes behind each other": Network(
        [
            node("Unsqueeze", ["x", "two"], ["wide"]),
            node("Shape", ["x"], ["columns"], start=1),
            node("Cast", ["columns"], ["number"], to=T.FLOAT),
            node("Mul", ["number", "nothing"], ["product"]),
            node("Cast", ["product"], ["end"], to=T.INT64),
            node("Slice", ["wide", "zero", "end", "one"], ["none"]),
            node("Concat", ["wide", "none"], ["joined"], axis=2),
            node("ReduceSum", ["joined", "two"], ["sums"], keepdims=0),
            # Uninitialized memory may be NaN, which `_only_of_large` would pass on.
            node("Greater", ["x", "million"], ["is_large"]),
            node("Where", ["is_large", "sums", "x"], ["y"]),
        ],
        {"zero": whole(0), "one": whole(1), "two": whole(2), "million": one(1e6),
         "nothing": one(0)},
        named="Concat",
    ),
    "rows quantized by blocks": _four_bit_weights(accuracy_level=4),
    "one quantization scale": Network(
        [
            node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        named="DynamicQuantizeLinear",
    ),
    "a sum of quantized numbers": Network(
        [
            node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            node(
                "QLinearAdd",
                ["q", "scale", "zero", "q", "scale", "zero", "coarse", "zero"],
                ["sum"],
                domain="com.microsoft",
            ),
            node("DequantizeLinear", ["sum", "coarse", "zero"], ["y"]),
        ],
        {"scale": one(0.03), "coarse": one(0.07), "zero": np.array(0, np.int8)},
        named="QLinearAdd",
    ),
    "a scale by the largest of the batch": Network(
        [
            node("ReduceMax", ["x"], ["largest"], keepdims=0),
            node("Greater", ["largest", "one"], ["is_large"]),
            node("Div", ["x", "white"], ["small"]),
            node("Where", ["is_large", "small", "x"], ["y"]),
        ],
        {"one": one(1), "white": one(255)},
        named="ReduceMax",
    ),
    "a branch on the least confidence": Network(
        _branches(), {"half": one(0.5), "two": one(2), "columns": whole(1)}, named="ReduceMin"
    ),
    "a lag": Network(
        [
            node("Pad", ["x", "pads"], ["padded"]),
            node("Shape", ["x"], ["end"], end=1),
            node("Slice", ["padded", "start", "end"], ["lagged"]),
            node("Add", ["x", "lagged"], ["y"]),
        ],
        {"pads": whole(168, 0, 0, 0), "start": whole(0)},
        named="Pad",
    ),
    "squares of integers": Network(
        [
            node("Mul", ["x", "many"], ["large"]),
            node("Cast", ["large"], ["whole"], to=T.INT64),
            node("Slice", ["whole", "zero", "first", "columns"], ["column"]),
            node("Pow", ["column", "squared"], ["square"]),
            node("Sub", ["square", "odd"], ["difference"]),
            node("Cast", ["difference"], ["sign"], to=T.FLOAT),
            node("Add", ["x", "sign"], ["y"]),
        ],
        {
            "many": one(2.0**30),
            "zero": whole(0),
            "first": whole(1),
            "columns": whole(1),
            "squared": np.array([[2]], np.int64),
            "odd": np.array([[2**62]], np.int64),
        },
        named="Pow",
    ),
    "numbers that are no UINT32": Network(
        [
            node("Mul", ["x", "far"], ["large"]),
            node("Cast", ["large"], ["whole"], to=T.UINT32),
            node("Cast", ["whole"], ["y"], to=T.FLOAT),
        ],
        {"far": one(-1e10)},
        named="Cast",
    ),
    "numbers that are no UINT32, by another type": Network(
        [
            node("Mul", ["x", "far"], ["large"]),
            node("Cast", ["large"], ["whole"], to=T.INT64),
            node("Cast", ["whole"], ["short"], to=T.UINT32),
            node("Cast", ["short"], ["y"], to=T.FLOAT),
        ],
        {"far": one(-1e10)},
        named="Cast",
    ),
    "logarithms of a softmax in FP64": Network(
        [
            node("Cast", ["x"], ["double"], to=T.DOUBLE),
            node("LogSoftmax", ["double"], ["logarithms"], axis=1),
            node("Cast", ["logarithms"], ["y"], to=T.FLOAT),
        ],
        named="LogSoftmax",
    ),
    "the batch's mean": Network(
        [node("ReduceMean", ["x", "axis"], ["mean"]), node("Sub", ["x", "mean"], ["y"])],
        {"axis": whole(0)},
        named="ReduceMean",
    ),
    "a softmax over the rows": Network([node("Softmax", ["x"], ["y"], axis=0)], named="Softmax"),
    "a running sum": Network(
        [node("CumSum", ["x", "axis"], ["y"])], {"axis": whole(0)}, named="CumSum"
    ),
    "a running sum by Scan": Network(
        _running_sum(), {"nothing": np.zeros(4, np.float32)}, named="Scan"
    ),
    "a mean in a loop": Network(
        _centred_in_a_loop(),
        {"twice": np.array(2, np.int64), "always": np.array(True), "axis": whole(0)},
        named="Loop",
    ),
    "a mean in a branch": Network(
        _centred_in_a_branch(), {"always": np.array(True), "axis": whole(0)}, named="ReduceMean"
    ),
    "the next row beside each": Network(
        [
            node("Concat", ["x", "x"], ["twice"], axis=0),
            node("Shape", ["x"], ["count"], end=1),
            node("Add", ["count", "one"], ["end"]),
            node("Slice", ["twice", "one", "end"], ["next"]),
            node("Add", ["x", "next"], ["y"]),
        ],
        {"one": whole(1)},
        named="Concat",
    ),
    "one quantization scale in a product": Network(
        [
            node("DynamicQuantizeMatMul", ["x", "weights", "scale", "zero"], ["y"],
                 domain="com.microsoft"),
        ],
        {"weights": np.arange(16, dtype=np.uint8).reshape(4, 4), "scale": one(0.1),
         "zero": np.array(8, np.uint8)},
        named="DynamicQuantizeMatMul",
    ),
    "the rows sorted": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("TopK", ["x", "count"], ["y", "places"], axis=0),
        ],
        named="TopK",
    ),
    "the first row beside each": Network(
        [node("Gather", ["x", "first"], ["top"], axis=0), node("Add", ["x", "top"], ["y"])],
        {"first": whole(0)},
        named="Gather",
    ),
    "the last row beside each": Network(
        [
            node("Slice", ["x", "start", "end"], ["last"]),
            node("Add", ["x", "last"], ["y"]),
        ],
        {"start": whole(-1), "end": whole(2**31 - 1)},
        named="Slice",
    ),
    "the rows backwards": Network(
        [
            node("Slice", ["x", "start", "end", "axis", "step"], ["turned"]),
            node("Add", ["x", "turned"], ["y"]),
        ],
        {"start": whole(-1), "end": whole(-(2**31)), "axis": whole(0), "step": whole(-1)},
        named="Slice",
    ),
    "more than three rows cut": Network(
        [
            node("Slice", ["x", "start", "end"], ["few"]),
            node("ReduceSum", ["few", "axis"], ["sum"]),
            node("Add", ["x", "sum"], ["y"]),
        ],
        {"start": whole(0), "end": whole(1000), "axis": whole(0)},
        named="Slice",
    ),
    "the number of rows": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Cast", ["count"], ["number"], to=T.FLOAT),
            node("Div", ["x", "number"], ["y"]),
        ],
        named="Div",
    ),
    "a special number of rows": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Equal", ["count", "special"], ["is_special"]),
            node("Cast", ["is_special"], ["number"], to=T.FLOAT),
            node("Add", ["x", "number"], ["y"]),
        ],
        {"special": whole(193)},
        named="Add",
    ),
    "the place in the batch": Network(
        [
            node("Shape", ["x"], ["counts"], end=1),
            node("Squeeze", ["counts"], ["count"]),
            node("Range", ["zero", "count", "step"], ["places"]),
            node("Cast", ["places"], ["numbers"], to=T.FLOAT),
            node("Unsqueeze", ["numbers", "axis"], ["column"]),
            node("Add", ["x", "column"], ["y"]),
        ],
        {"zero": np.array(0, np.int64), "step": np.array(1, np.int64), "axis": whole(1)},
        named="Add",
    ),
    "a product with the other rows": Network(
        [
            node("Transpose", ["x"], ["turned"], perm=[1, 0]),
            node("MatMul", ["turned", "x"], ["products"]),
            node("MatMul", ["x", "products"], ["y"]),
        ],
        named="MatMul",
    ),
    "attention over the rows": Network(
        [
            node("Transpose", ["x"], ["turned"], perm=[1, 0]),
            node("MatMul", ["x", "turned"], ["scores"]),
            node("Softmax", ["scores"], ["weights"], axis=1),
            node("MatMul", ["weights", "x"], ["y"]),
        ],
        named="MatMul",
    ),
    "the numbers of a row apart": Network(
        [
            node("Reshape", ["x", "turned"], ["columns"]),
            node("ReduceMean", ["columns", "axis"], ["mean"]),
            node("Sub", ["columns", "mean"], ["less"]),
            node("Reshape", ["less", "back"], ["y"]),
        ],
        {"back": whole(-1, 4), "turned": whole(-1, 2), "axis": whole(0)},
        named="ReduceMean",
    ),
    "rows taken for columns": Network(
        [
            node("Reshape", ["x", "turned"], ["columns"]),
            node("Transpose", ["columns"], ["back"], perm=[1, 0]),
            node("Add", ["x", "back"], ["y"]),
        ],
        {"turned": whole(4, -1)},
        named="Reshape",
    ),
    "a special number of rows, as a shape": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Equal", ["count", "special"], ["is_special"]),
            node("Cast", ["is_special"], ["hidden"], to=T.INT64),
            node("ConstantOfShape", ["hidden"], ["none"]),
            node("Shape", ["none"], ["again"]),
            node("Cast", ["again"], ["number"], to=T.FLOAT),
            node("Add", ["x", "number"], ["y"]),
        ],
        {"special": whole(193)},
        named="Add",
    ),
    "a special number of rows, as a size": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Min", ["count", "special"], ["at_most"]),
            node("Slice", ["x", "start", "at_most"], ["cut"]),
            node("ReduceSum", ["cut", "axis"], ["sum"]),
            node("Add", ["x", "sum"], ["y"]),
        ],
        {"special": whole(100), "start": whole(0), "axis": whole(0)},
        named="Slice",
    ),
    "a special number of rows, as a negative size": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Mul", ["count", "minus"], ["negative"]),
            node("Equal", ["negative", "special"], ["is_special"]),
            node("Cast", ["is_special"], ["number"], to=T.FLOAT),
            node("Add", ["x", "number"], ["y"]),
        ],
        {"special": whole(-193), "minus": whole(-1)},
        named="Add",
    ),
    "a special number of rows, as a place": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Mul", ["count", "table"], ["many"]),
            node("Gather", ["many", "many"], ["picked"]),
            node("Cast", ["picked"], ["numbers"], to=T.FLOAT),
            node("ReduceSum", ["numbers", "axis"], ["number"]),
            node("Mul", ["number", "nothing"], ["none"]),
            node("Add", ["x", "none"], ["y"]),
        ],
        {"table": np.ones(1000, np.int64), "axis": whole(0), "nothing": one(0)},
        named="Add",
    ),
    "a size that overflows": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Mul", ["count", "large"], ["huge"]),
            node("Div", ["huge", "large"], ["again"]),
            node("Slice", ["x", "start", "again"], ["cut"]),
            node("ReduceSum", ["cut", "axis"], ["sum"]),
            node("Mul", ["sum", "nothing"], ["none"]),
            node("Add", ["x", "none"], ["y"]),
        ],
        {"large": whole(2**57), "start": whole(0), "axis": whole(0), "nothing": one(0)},
        named="Slice",
    ),
    "a node before what it takes": Network(
        [
            node("Add", ["x", "late"], ["y"]),
            node("Relu", ["far"], ["late"]),
            node("Sub", ["largest", "million"], ["far"]),
            node("ReduceMax", ["x"], ["largest"], keepdims=0),
        ],
        {"million": one(1e6)},
        named="Add",
    ),
    "enlarged with its aspect": Network(
        [node("Resize", ["x", "", "", "sizes"], ["z"], mode="linear",
              keep_aspect_ratio_policy="not_larger"),
         node("Slice", ["z", "start", "end", "axis"], ["y"])],
        {"sizes": whole(2**20, 4), "start": whole(0), "end": whole(4), "axis": whole(1)},
        named="Resize",
    ),
    "a little enlarged": Network(
        [node("Resize", ["x", "", "scales"], ["y"], mode="linear")],
        {"scales": np.array([1.003, 1], np.float32)},
        named="Resize",
    ),
    "a single row that loses its axis": Network(
        [
            node("Squeeze", ["x"], ["squeezed"]),
            node("Softmax", ["squeezed"], ["weights"], axis=-1),
            node("Shape", ["x"], ["shape"]),
            node("Reshape", ["weights", "shape"], ["y"]),
        ],
        named="Squeeze",
    ),
    "a size through numbers that do not hold it": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Cast", ["count"], ["rough"], to=T.FLOAT16),
            node("Cast", ["rough"], ["end"], to=T.INT64),
            node("Slice", ["x", "start", "end"], ["cut"]),
            node("ReduceSum", ["cut", "axis"], ["sum"]),
            node("Mul", ["sum", "nothing"], ["none"]),
            node("Add", ["x", "none"], ["y"]),
        ],
        {"start": whole(0), "axis": whole(0), "nothing": one(0)},
        named="Slice",
    ),
    "the number of rows around each row": Network(
        [
            node("Shape", ["x"], ["counts"], end=1),
            node("Squeeze", ["counts"], ["count"]),
            node("Cast", ["count"], ["number"], to=T.FLOAT),
            node("Pad", ["x", "pads", "number"], ["padded"]),
            node("Slice", ["padded", "start", "end", "axis"], ["y"]),
        ],
        {"pads": whole(0, 0, 0, 1), "start": whole(1), "end": whole(5), "axis": whole(1)},
        named="Pad",
    ),
    "tables that are shared out among the rows": Network(
        [
            node("Greater", ["x", "half"], ["is_large"]),
            node("Cast", ["is_large"], ["place"], to=T.INT64),
            node("Unsqueeze", ["place", "last"], ["places"]),
            node("GatherND", ["tables", "places"], ["found"], batch_dims=2),
            node("Add", ["x", "found"], ["y"]),
        ],
        {"half": one(0.5), "last": whole(2),
         "tables": np.arange(4, dtype=np.float32).reshape(1, 2, 2)},
        named="GatherND",
    ),
    "interpolated columns, with the next row's infinity": Network(
        [
            node("Exp", ["x"], ["large"]),
            node("Resize", ["large", "", "scales"], ["wide"], mode="linear"),
            node("Slice", ["wide", "start", "end", "axis"], ["some"]),
            node("IsNaN", ["some"], ["is_nan"]),
            node("Where", ["is_nan", "hundred", "x"], ["y"]),
        ],
        {"hundred": one(100), "scales": np.array([1, 2], np.float32), "start": whole(0),
         "end": whole(4), "axis": whole(1)},
        named="Resize",
    ),
    "the largest number beside a NaN": Network(
        [
            node("Sub", ["two", "x"], ["less"]),
            node("Sqrt", ["less"], ["root"]),
            node("ReduceMax", ["root", "axis"], ["largest"]),
            node("IsNaN", ["largest"], ["is_nan"]),
            node("Where", ["is_nan", "two", "largest"], ["number"]),
            node("Add", ["x", "number"], ["y"]),
        ],
        {"two": one(2), "axis": whole(1)},
        named="ReduceMax",
    ),
    "an operator that is not known here": Network(
        [
            node("Unique", ["x"], ["values", "f", "places", "c"], sorted=1),
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["values", "places"], ["flat"]),
            node("Reshape", ["flat", "shape"], ["y"]),
        ],
        named="Unique",
    ),
}  # fmt: skip
"""Networks that mix rows; most show it only for some rows."""


APART: Mapping[str, Network] = {
    "random numbers in a branch that is never taken": Network(
        _random_branch(), {"far": one(1e6), "small": one(1e-9)}
    ),
    "the numbers of a row in another order, as a view of torch": _picked(4, 3, 0, 2, 1),
    "weights of four bits": _four_bit_weights(accuracy_level=0),
    "a quotient by the larger of two numbers and a small one": Network(
        [
            node("Neg", ["x"], ["less"]),
            node("Max", ["x", "less"], ["size"]),
            node("Pow", ["size", "two"], ["square"]),
            node("Add", ["square", "small"], ["positive"]),
            node("Div", ["x", "positive"], ["y"]),
        ],
        {"two": one(2), "small": one(1e-6)},
    ),
    "distances, as skl2onnx writes them": _distances(
        _UNCHANGED, _DIFFERENCES, _sum_of_squares()
    ),
    "a mask by the numbers of rows and columns": _numbered_mask("numbers"),
    "a number of each row, as an index of torch": _numbered("numbers", *_PICKED),
    "a number of each row changed, as torch writes it": _numbered(
        "numbers",
        node("GatherND", ["x", "indices"], ["picked"]),
        node("Neg", ["picked"], ["negative"]),
        node("ScatterND", ["x", "indices", "negative"], ["found"]),
    ),
    "products of rows behind dots": Network(
        [node("Einsum", ["x", "x"], ["sums"], equation="...i,...i->..."),
         node("Unsqueeze", ["sums", "axis"], ["column"]), node("Add", ["x", "column"], ["y"])],
        {"axis": whole(1)},
    ),
    "columns of constants for each of two places": Network(
        [
            node("TopK", ["x", "two"], ["values", "places"], axis=1),
            node("ArrayFeatureExtractor", ["classes", "places"], ["found"], domain="ai.onnx.ml"),
            node("Reshape", ["found", "pairs"], ["labels"]),
            node("Concat", ["labels", "values"], ["y"], axis=1),
        ],
        {"two": whole(2), "classes": np.arange(4, dtype=np.float32)[None], "pairs": whole(-1, 2)},
    ),
    "a softmax of each row": Network([node("Softmax", ["x"], ["y"], axis=1)]),
    "the row's mean": Network(
        [
            node("ReduceMean", ["x", "axis"], ["mean"], keepdims=0),
            node("Unsqueeze", ["mean", "axis"], ["column"]),
            node("Sub", ["x", "column"], ["y"]),
        ],
        {"axis": whole(1)},
    ),
    "the rows last": Network(
        [
            node("Transpose", ["x"], ["turned"], perm=[1, 0]),
            node("ReduceMean", ["turned", "axis"], ["mean"]),
            node("Sub", ["turned", "mean"], ["less"]),
            node("Transpose", ["less"], ["y"], perm=[1, 0]),
        ],
        {"axis": whole(0)},
    ),
    "a shape that was asked for": Network(
        [
            node("Reshape", ["x", "split"], ["pairs"]),
            node("ReduceSum", ["pairs", "axis"], ["sums"]),
            node("Expand", ["sums", "pairs_shape"], ["wide"]),
            node("Shape", ["x"], ["shape"]),
            node("Reshape", ["wide", "shape"], ["y"]),
        ],
        {"split": whole(-1, 2, 2), "axis": whole(1), "pairs_shape": whole(1, 2, 1)},
    ),
    "one value for each row": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Concat", ["count", "width"], ["shape"], axis=0),
            node("ConstantOfShape", ["shape"], ["zeros"]),
            node("Max", ["x", "zeros"], ["y"]),
        ],
        {"width": whole(4)},
    ),
    "a token before each row": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Concat", ["count", "width"], ["shape"], axis=0),
            node("Expand", ["token", "shape"], ["tokens"]),
            node("Concat", ["tokens", "x"], ["longer"], axis=1),
            node("Slice", ["longer", "start", "end", "axis"], ["y"]),
        ],
        {"width": whole(1), "token": np.ones((1, 1), np.float32), "start": whole(0),
         "end": whole(4), "axis": whole(1)},
    ),
    "all rows of a slice": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Slice", ["x", "start", "count"], ["y"]),
        ],
        {"start": whole(0)},
    ),
    "the number of columns": Network(
        [
            node("Shape", ["x"], ["count"], start=1),
            node("Cast", ["count"], ["number"], to=T.FLOAT),
            node("Div", ["x", "number"], ["y"]),
        ]
    ),
    "a token expanded as the older exporter of torch does": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Concat", ["count", "same"], ["asked"], axis=0),
            node("Equal", ["asked", "minus"], ["is_same"]),
            node("Where", ["is_same", "ones", "asked"], ["shape"]),
            node("Expand", ["token", "shape"], ["tokens"]),
            node("Add", ["x", "tokens"], ["y"]),
        ],
        {"same": whole(-1), "minus": whole(-1, -1), "ones": whole(1, 1),
         "token": np.ones((1, 4), np.float32)},
    ),
    "windows of a row": Network(
        [
            node("Shape", ["x"], ["count"], end=1),
            node("Reshape", ["x", "pairs"], ["windows"]),
            node("Softmax", ["windows"], ["weights"], axis=-1),
            node("Shape", ["weights"], ["twice"], end=1),
            node("Div", ["twice", "two"], ["once"]),
            node("Concat", ["once", "width"], ["shape"], axis=0),
            node("Reshape", ["weights", "shape"], ["y"]),
        ],
        {"pairs": whole(-1, 2), "two": whole(2), "width": whole(4)},
    ),
    "the same size": Network(
        [node("Resize", ["x", "", "scales"], ["y"], mode="nearest")],
        {"scales": np.ones(2, np.float32)},
    ),
    "columns of constant classes": Network(
        [
            node("ArgMax", ["x"], ["place"], axis=1, keepdims=0),
            node("ArrayFeatureExtractor", ["classes", "place"], ["label"], domain="ai.onnx.ml"),
            node("Transpose", ["label"], ["column"], perm=[1, 0]),
            node("Add", ["x", "column"], ["y"]),
        ],
        {"classes": np.arange(4, dtype=np.float32)[None]},
    ),
    "an embedding": Network(
        [
            node("ArgMax", ["x"], ["place"], axis=1, keepdims=0),
            node("Gather", ["table", "place"], ["y"], axis=0),
        ],
        {"table": np.arange(16, dtype=np.float32).reshape(4, 4)},
    ),
}  # fmt: skip
"""Networks that compute each row alone, with operators that could mix rows."""
