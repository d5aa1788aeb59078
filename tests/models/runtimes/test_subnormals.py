"""Subnormal numbers are zero while a network computes, on every thread, and nowhere else."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from small_packages import onnx_file
from subnormal_networks import SUBNORMAL, TINY, open_squares, rows

from models.package.card import RuntimeName
from models.runtimes.runtime import OnnxRuntime
from models.runtimes.subnormals import SUPPORTED, FlushToZero

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="subnormals are not flushed here")

node = helper.make_node
RUNTIMES: tuple[RuntimeName, ...] = ("onnx", "torchscript")

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _threads_of_torch() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def flushes() -> bool:
    """Return whether this thread rounds a subnormal result to zero."""
    return float(np.square(np.float32(TINY))) == 0


def reads_zero() -> bool:
    """Return whether this thread reads a subnormal number as zero."""
    return float(np.float32(SUBNORMAL) * np.float32(1e30)) == 0


def on_thread(call: Callable[[], T]) -> T:
    """Return the result of a call on a new thread."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def test_inputs_and_results_are_zero_in_the_block_only() -> None:
    assert (flushes(), reads_zero()) == (False, False)
    with FlushToZero():
        assert (flushes(), reads_zero()) == (True, True)
        with FlushToZero():
            assert (flushes(), reads_zero()) == (True, True)
        assert (flushes(), reads_zero()) == (True, True)
    assert (flushes(), reads_zero()) == (False, False)


def test_an_error_ends_the_block() -> None:
    with pytest.raises(ValueError, match="wrong"), FlushToZero():
        raise ValueError("wrong")
    assert not flushes()


def test_a_thread_has_the_mode_of_the_block_in_which_it_starts() -> None:
    with FlushToZero():
        assert on_thread(flushes)
    assert not on_thread(flushes)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_computes_zero_on_each_of_its_threads(runtime: RuntimeName, threads: int) -> None:
    """On each thread that calls the runtime, and on those that share the work of a large batch."""

    def nonzero() -> int:
        many = {"x": rows(4096, TINY)}
        return max(np.count_nonzero(opened(many)["y"]) for _ in range(20))

    def opened_and_called() -> tuple[int, int, bool]:
        nonlocal opened
        opened = open_squares(runtime, threads)
        return nonzero(), on_thread(nonzero), flushes()

    opened = open_squares(runtime, threads)
    # New threads, as torch's may have been started by other tests.
    assert on_thread(opened_and_called) == (0, 0, False)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_normal_numbers_keep_their_squares(runtime: RuntimeName) -> None:
    output = open_squares(runtime, 1)({"x": rows(2, 1e-18)})["y"]
    np.testing.assert_array_equal(output, np.square(rows(2, 1e-18)))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_python_has_subnormals_after_a_runtime_was_opened_and_has_failed(
    runtime: RuntimeName,
) -> None:
    opened = open_squares(runtime, 1)
    with pytest.raises(Exception, match=r".+"):
        opened({"x": np.zeros((1, 1), np.str_)})
    assert not flushes()
    assert json.loads("1e-310") == 1e-310 > 0


@pytest.mark.parametrize("count", [1, 16])
def test_the_logarithm_of_a_subnormal_is_that_of_zero_in_any_batch(count: int) -> None:
    """The C library's function, which computes the last numbers of a batch, gives -103.97."""
    content = onnx_file(
        [node("Log", ["x"], ["log"]), node("Clip", ["log", "least"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 1])],
        [("y", TensorProto.FLOAT, ["batch", 1])],
        least=np.float32(-1000).reshape(()),
    )
    output = OnnxRuntime(content)({"x": np.full((count, 1), 1e-40, np.float32)})["y"]
    assert (output == -1000).all()


@pytest.mark.parametrize("count", [1, 16])
def test_the_power_of_a_subnormal_is_that_of_zero_in_any_batch(count: int) -> None:
    """Relu passes a subnormal number on at the end of a vector of the processor."""
    content = onnx_file(
        [node("Relu", ["x"], ["positive"]), node("Pow", ["positive", "tenth"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 3])],
        [("y", TensorProto.FLOAT, ["batch", 3])],
        tenth=np.float32(0.1).reshape(()),
    )
    output = OnnxRuntime(content)({"x": np.full((count, 3), 1e-40, np.float32)})["y"]
    assert not output.any()
