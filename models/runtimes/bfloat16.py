"""BF16 as FP32: numpy has no bfloat16, and ONNX Runtime gives none to Python.

Every BF16 number is an FP32 number whose lower 16 bits are 0. Tensors of BF16 are therefore arrays
of FP32, apart from messages in binary and the memory of the runtimes, which have two bytes for each
number. FP32 is rounded to the next BF16, and to the even one of two, as processors do.

`trial_run.py` imports this module, which imports no other of this package.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

ONNX_TYPE = "tensor(bfloat16)"
"""The name of ONNX Runtime for a tensor of BF16."""
_ONNX_CODE = 16
EPS = 2.0**-7
"""The relative distance of two BF16 numbers."""


def to_bits(array: NDArray[Any]) -> NDArray[np.uint16]:
    """Return the BF16 numbers next to those of an array of FP32, as their 16 bits."""
    bits = np.ascontiguousarray(array, np.float32).reshape(array.shape).view(np.uint32)
    with np.errstate(over="ignore"):
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    # A NaN whose lower bits alone say so would become infinity, or wrap to 0.
    return np.where(np.isnan(array), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bits(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return BF16 numbers, given as their 16 bits, as FP32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return the BF16 numbers next to those of an array, as FP32."""
    return from_bits(to_bits(array))


def compute(
    session: Any, names: Sequence[str], inputs: Mapping[str, NDArray[Any]], options: Any = None
) -> list[Any]:
    """Return outputs of a session of ONNX Runtime, of which some tensors may be BF16.

    Args:
        session: an `InferenceSession`.
        names: of the outputs.
        inputs: by name; those of BF16 as FP32, which is rounded.
        options: the `RunOptions`.

    Returns:
        Arrays, those of BF16 as FP32; None for an output that is no tensor.
    """
    import onnxruntime

    make, make_typed = (
        onnxruntime.OrtValue.ortvalue_from_numpy,
        onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type,
    )
    types = {tensor.name: tensor.type for tensor in session.get_inputs()}
    values = {
        name: make_typed(to_bits(array), _ONNX_CODE)
        if types[name] == ONNX_TYPE
        else make(np.ascontiguousarray(array).reshape(array.shape))
        for name, array in inputs.items()
    }
    return list(map(_array, session.run_with_ort_values(list(names), values, options)))


def run_of(session: Any) -> Callable[..., list[Any]]:
    """Return the method with which a session is run: `compute` if a tensor of it is BF16."""
    tensors = (*session.get_inputs(), *session.get_outputs())
    has_bfloat16 = any(tensor.type == ONNX_TYPE for tensor in tensors)
    method: Callable[..., list[Any]] = partial(compute, session) if has_bfloat16 else session.run
    return method


def _array(value: Any) -> Any:
    """Return the numbers of an `OrtValue` in the memory of the CPU."""
    if not value.is_tensor():
        return None
    if value.data_type() != ONNX_TYPE:
        return value.numpy()
    shape = tuple(value.shape())
    count = int(np.prod(shape))
    if not count:
        return np.empty(shape, np.float32)
    memory = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    return from_bits(np.ctypeslib.as_array(memory)).reshape(shape)
