"""Elementwise operators give the same number at each place in a batch, up to rounding.

Libraries compute with vectors of the processor, and the last numbers of a tensor in another way.
Each operator that is taken for elementwise is therefore computed at many lengths, with extreme
numbers, and compared with the result of each number alone.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from models.graphs.row_rules import ELEMENTWISE
from models.runtimes.onnx_library import load_onnxruntime
from models.runtimes.subnormals import FlushToZero
from models.torch_graphs.script_rules import ELEMENTWISE as SCRIPT_ELEMENTWISE
from models.torch_graphs.script_rules import SIGN_CHOOSING

Array = NDArray[Any]
EXTREMES = [
    0.0, -0.0, np.inf, -np.inf, np.nan, 1.2e-38, 1e-20, -1e-20, 1e20, -1e20, 3e20, 1e38, 3.4e38,
    1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 7.0, 88.8, -88.8, 104.0, -104.0, 1e9, -1e9, 2147483648.0,
    4294967296.0, 1e10, 9.3e18, 127.6, -128.6, 255.7, 20.0, -20.0, 65504.0, 70000.0,
]  # fmt: skip
BINARY = {
    "Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min",
    "Mod", "Mul", "PRelu", "Pow", "Sub", "Sum",
}  # fmt: skip
OTHER_INPUTS = {
    "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Expand", "Not", "Or",
    "RegexFullMatch", "StringConcat", "Swish", "Where", "Xor", "ai.onnx.ml.Binarizer",
    "ai.onnx.ml.CategoryMapper",
}  # fmt: skip
"""Operators that take texts, no FP32 or no NaN, take sizes, or are newer than the opset here."""
LENGTHS = (*range(1, 34), 64, 65)
ROUNDING = 16 * float(np.finfo(np.float32).eps)

Compute = Callable[[Sequence[Array]], Array]


def differing(compute: Compute, count: int, rounding: float = ROUNDING) -> Iterator[str]:
    """Yield how the numbers of a batch differ from the numbers alone: "zero" or "number"."""
    numbers = np.array(EXTREMES, np.float32)
    cases = np.array(list(itertools.product(numbers, repeat=count)), np.float32)
    random = np.random.default_rng(0)
    if len(cases) > 800:
        cases = cases[random.choice(len(cases), 800, replace=False)]
    expected_alone = np.concatenate(
        [compute(list(case.reshape(-1, 1, 1))).reshape(1) for case in cases]
    )
    for length in LENGTHS:
        for _ in range(6):
            indices = random.integers(0, len(cases), length)
            actual = compute([column[:, None] for column in cases[indices].T.copy()]).reshape(-1)
            expected = expected_alone[indices]
            if actual.dtype.kind != "f":
                if not np.array_equal(actual, expected):
                    yield "number"
                continue
            same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
            with np.errstate(all="ignore"):
                close = np.abs(actual - expected) <= rounding * np.abs(expected) + 1e-37
            if not np.all(same | close):
                yield "number"
            if np.any(same & ~np.isnan(actual) & (np.signbit(actual) != np.signbit(expected))):
                yield "zero"


def graph(kind: str) -> Compute:
    domain, _, name = kind.rpartition(".")
    names = ["a", "b"][: 1 + (kind in BINARY)]
    attributes: dict[str, Any] = {"fmod": 1} if kind == "Mod" else {}
    made = helper.make_node(name, names, ["y"], domain=domain, **attributes)
    inputs = [
        helper.make_tensor_value_info(name_of_input, onnx.TensorProto.FLOAT, None)
        for name_of_input in names
    ]
    built = helper.make_graph([made], "g", inputs, [onnx.ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid(*opset) for opset in (("", 20), ("ai.onnx.ml", 3))]
    opsets.append(helper.make_opsetid("com.microsoft", 1))
    content = helper.make_model(built, opset_imports=opsets, ir_version=10).SerializeToString()
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    with FlushToZero():  # or ONNX Runtime sets the mode of this thread for good
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def compute(columns: Sequence[Array]) -> Array:
        with FlushToZero():
            output: Array = session.run(None, dict(zip(names, columns, strict=True)))[0]
        return output

    return compute


ONNX = sorted(
    kind
    for kind in {*ELEMENTWISE, "Pow"} - OTHER_INPUTS
    if "Linear" not in kind and "Label" not in kind and "Bias" not in kind
)


@pytest.mark.parametrize("kind", ONNX)
def test_an_operator_of_onnx_gives_each_number_at_each_place(kind: str) -> None:
    differences = set(differing(graph(kind), 2 if kind in BINARY else 1))
    assert differences <= ({"zero"} if kind in ("Max", "Min") else set())


functional = torch.nn.functional
CALLS: Mapping[str, Callable[..., torch.Tensor]] = {
    "clamp": lambda x, y: torch.clamp(x, min=y),
    "celu": functional.celu, "elu": functional.elu, "gelu": functional.gelu,
    "hardshrink": functional.hardshrink, "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish, "hardtanh": functional.hardtanh,
    "leaky_relu": functional.leaky_relu, "log_sigmoid": functional.logsigmoid,
    "mish": functional.mish, "relu6": functional.relu6, "selu": functional.selu,
    "silu": functional.silu, "softplus": functional.softplus, "softshrink": functional.softshrink,
    "threshold": lambda x: functional.threshold(x, 0.5, 2.0),
    "div": torch.div,
}  # fmt: skip
PAIRS = {
    "add", "clamp", "div", "eq", "ge", "gt", "le", "lt", "maximum", "minimum", "mul", "ne",
    "rsub", "sub", "xlogy",
}  # fmt: skip
OTHER_ARGUMENTS = {
    "addcdiv", "addcmul", "alias", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor",
    "clamp_max", "clamp_min", "contiguous", "expand", "expand_as", "full_like", "lerp",
    "logical_and", "logical_or", "logical_xor", "masked_fill", "to", "type_as",
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted({*SCRIPT_ELEMENTWISE, "div"} - OTHER_ARGUMENTS))
def test_an_operator_of_torch_gives_each_number_at_each_place(
    name: str, dtype: torch.dtype
) -> None:
    function = CALLS.get(name) or getattr(torch, name)

    def compute(columns: Sequence[Array]) -> Array:
        with FlushToZero(), torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = function(*(torch.from_numpy(column).to(dtype) for column in columns))
        array: Array = (output.float() if output.is_floating_point() else output).numpy()
        return array

    rounding = 16 * float(torch.finfo(dtype).eps)
    differences = set(differing(compute, 2 if name in PAIRS else 1, rounding))
    assert differences <= ({"zero"} if name in SIGN_CHOOSING else set())
