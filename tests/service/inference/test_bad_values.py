"""Errors of networks on a request: whether the request is at fault, and what the caller gets."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_packages import bend_kit

from models.kinds.tensor_spec import TensorSpec
from models.runtimes.arena import MemoryLimitError
from service.batching.batch import Arrays
from service.errors import BadInputError, BodyTooLargeError, ModelFaultError
from service.inference.bad_values import check_ranges, judge

KIT = bend_kit()
TOKENS = TensorSpec(
    name="tokens", datatype="INT64", shape=(-1, -1), meaning="words", minimum=0, maximum=49,
    enforced=True,
)  # fmt: skip


class Runtime:
    """A runtime that computes as the network of the card, or fails."""

    def __init__(self, error: Exception | None = None, scale: float = 1.0) -> None:
        self.error, self.scale, self.calls = error, scale, 0

    def __call__(self, inputs: Arrays) -> Arrays:
        """Return the outputs, times the scale."""
        self.calls += 1
        if self.error is not None:
            raise self.error
        return {name: array * self.scale for name, array in KIT.eager(inputs).items()}


ONNX = "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running {} node. "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index out of range in self", "index out of range in self"),
        ("it failed.", "it failed"),
        ("two\nlines", "two lines"),
        (
            ONNX.format("Gather") + "Name:'/a/Gather' Status Message: indices element out of data "
            "bounds, idx=50 must be within the inclusive range [-50,49]",
            "indices element out of data bounds, idx=50 must be within the inclusive range "
            "[-50,49]",
        ),
        (
            ONNX.format("Reshape") + "Name:'' Status Message: /onnxruntime_src/onnxruntime/core/"
            "providers/cpu/tensor/reshape_helper.h:84 onnxruntime::ReshapeHelper::ReshapeHelper("
            "const onnxruntime::TensorShape&, bool) size != 0 && (a % size) == 0 was false. The "
            "input tensor cannot be reshaped to the requested shape.\n",
            "The input tensor cannot be reshaped to the requested shape",
        ),
        (
            ONNX.format("MatMul") + "Name:'' Status Message: matmul_helper.h:59 Compute MatMul "
            "dimension mismatch",
            "MatMul dimension mismatch",
        ),
        (
            ONNX.format("GatherElements") + "Name:'' Status Message: /src/gather_elements.cc:150 "
            "void onnxruntime::core_impl(const Tensor*, Tensor*) [with Tin = long int; int64_t = "
            "long int] GatherElements op: Out of range value in index tensor\n",
            "GatherElements op: Out of range value in index tensor",
        ),
        (
            'Traceback of TorchScript (most recent call last):\n  File "/srv/x.py", line 3\n'
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x5 and 4x2)\n",
            "mat1 and mat2 shapes cannot be multiplied (1x5 and 4x2)",
        ),
        ("no file at:/srv/secret/table.bin", "no file at:table.bin"),
        ("a bell \a rings", r"a bell \x07 rings"),
        ("", "ValueError"),
        ("x" * 1000, "x" * 300 + "…"),
    ],
)
def test_the_request_is_at_fault_if_the_network_still_computes_its_example(
    text: str, message: str
) -> None:
    error = ValueError(text)
    verdict = judge(KIT.card, Runtime(), error)
    assert isinstance(verdict, BadInputError)
    assert str(verdict) == f"Model 'bend' cannot compute this request: {message}."
    assert verdict.__cause__ is error


@pytest.mark.parametrize(
    "runtime", [Runtime(RuntimeError("gone")), Runtime(scale=1.5)], ids=["fails", "is wrong"]
)
def test_the_network_is_at_fault_if_it_does_not_compute_its_example_any_more(
    runtime: Runtime,
) -> None:
    error = ValueError("secret")
    verdict = judge(KIT.card, runtime, error)
    assert isinstance(verdict, ModelFaultError)
    assert "secret" not in str(verdict)
    assert verdict.__cause__ is error
    assert "the recorded example fails on the same runtime" in error.__notes__[0]
    assert runtime.calls == 1


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu",
    ],
)
def test_an_error_of_the_device_is_never_the_fault_of_the_request(text: str) -> None:
    assert isinstance(judge(KIT.card, Runtime(), RuntimeError(text)), ModelFaultError)


def test_a_lack_of_memory_is_no_fault_of_the_request() -> None:
    runtime = Runtime()
    assert isinstance(judge(KIT.card, runtime, MemoryError("CUDA out of memory")), ModelFaultError)
    assert runtime.calls == 0


def test_a_request_over_the_limit_of_memory_is_refused_and_may_fit_later() -> None:
    name = KIT.card.name
    verdict = judge(KIT.card, Runtime(), MemoryLimitError(3 * 2**30, is_alone=True))
    assert isinstance(verdict, BodyTooLargeError)
    assert str(verdict) == (
        f"Model {name!r} needs more memory for this request than the 3,072 MiB of "
        "FITSERVE_MAX_COMPUTE_BYTES: send fewer or smaller rows."
    )
    verdict = judge(KIT.card, Runtime(), MemoryLimitError(3 * 2**30, is_alone=False))
    assert (verdict.status, verdict.headers) == (503, (("Retry-After", "1"),))
    assert str(verdict) == (
        f"Model {name!r} needs more memory for this request than other requests leave of the "
        "3,072 MiB of FITSERVE_MAX_COMPUTE_BYTES: try again later, or send fewer or smaller rows."
    )


# Ranges.


def ids(*values: int) -> Any:
    return {"tokens": np.array([values])}


def test_values_within_their_range_are_accepted() -> None:
    check_ranges(KIT.card, [TOKENS], ids(0, 49))
    check_ranges(KIT.card, [TOKENS], {"tokens": np.empty((0, 3), np.int64)})
    check_ranges(KIT.card, [replace(TOKENS, minimum=None)], ids(-5))
    check_ranges(KIT.card, [replace(TOKENS, maximum=None)], ids(5_000))


@pytest.mark.parametrize(
    ("spec", "inputs", "message"),
    [
        (TOKENS, ids(3, 50, 60), "holds 50; model 'bend' takes 0 to 49"),
        (TOKENS, ids(3, -1), "holds -1; model 'bend' takes 0 to 49"),
        (replace(TOKENS, maximum=None), ids(-1), "holds -1; model 'bend' takes from 0"),
        (replace(TOKENS, minimum=None), ids(50), "holds 50; model 'bend' takes up to 49"),
        (
            replace(TOKENS, datatype="FP32", minimum=-0.5, maximum=0.1),
            {"tokens": np.array([0.1, 0.2], np.float32)},
            "holds 0.2; model 'bend' takes -0.5 to 0.1",
        ),
        (
            replace(TOKENS, datatype="FP32"),
            {"tokens": np.array([1, np.nan], np.float32)},
            "holds nan; model 'bend' takes 0 to 49",
        ),
        (
            replace(TOKENS, datatype="UINT64", maximum=2**20),
            {"tokens": np.array([2**64 - 1], np.uint64)},
            "holds 18446744073709551615; model 'bend' takes 0 to 1048576",
        ),
        (
            replace(TOKENS, datatype="BOOL", minimum=1, maximum=1),
            {"tokens": np.array([True, False])},
            "holds False; model 'bend' takes 1 to 1",
        ),
    ],
)
def test_the_first_value_outside_its_range_is_reported(
    spec: TensorSpec, inputs: Arrays, message: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        check_ranges(KIT.card, [spec], inputs)
    assert str(caught.value) == f"The input 'tokens' {message}."
