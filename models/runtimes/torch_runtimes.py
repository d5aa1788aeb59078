"""The runtimes of torch: TorchScript, and programs of torch.export.

torch is imported on use: a service that computes with ONNX Runtime need not install it.
"""

import io
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.package.card import ModelCard, RuntimeName
from models.runtimes.devices import DeviceError, torch_problem
from models.runtimes.runtime import Arrays, raise_memory_error
from models.runtimes.subnormals import FlushToZero

_VARYING_FUNCTIONS = (
    *("prim::Loop", "prim::If"),
    *("arange", "linspace", "full", "zeros", "ones", "repeat", "repeat_interleave", "tile"),
    *("expand", "one_hot", "constant_pad_nd", "pad"),
)
"""The operators of torch whose work depends on the values of their inputs.

Functions without a namespace are in `aten`.
"""


class TorchRuntime:
    """A network in torch, on `cpu` or `cuda:<index>`.

    Args:
        content: the file.
        device: the device. On a GPU, TF32 is off so that results equal those of a CPU.
        threads: threads for one batch, for the whole process; 0 leaves the choice to torch.
        outputs: the names of the outputs, in the order in which the network returns them.
        bfloat16: the inputs of BF16.

    Attributes:
        arguments: the names of the inputs, in the order in which the network takes them.
    """

    name: RuntimeName
    arguments: tuple[str, ...]
    cost_varies: bool

    def __init__(
        self,
        content: bytes,
        device: str = "cpu",
        threads: int = 0,
        *,
        outputs: Sequence[str],
        bfloat16: Collection[str] = (),
    ) -> None:
        import torch

        if threads:
            with FlushToZero():  # torch may start its threads here
                torch.set_num_threads(threads)
        if device != "cpu":
            if problem := torch_problem(device):
                raise DeviceError(f"torch cannot compute on {device}: {problem}")
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
            # CPUs do not sum in half precision.
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.device = device
        self._torch = torch
        self._outputs = tuple(outputs)
        self._bfloat16 = frozenset(bfloat16)
        self._streams: list[Any] = []
        self._flush_to_zero = FlushToZero()
        self._module = self._loaded(content)
        if device != "cpu":  # other streams must not read weights that are not yet written
            torch.cuda.synchronize(device)

    def _loaded(self, content: bytes) -> Any:
        """Return the network of a file on the device, and set the attributes that depend on it."""
        raise NotImplementedError

    @property
    def module(self) -> Any:
        """The network, which is called with one tensor for each argument."""
        return self._module

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute the outputs of one batch, as `Runtime` says."""
        try:
            with self._flush_to_zero:
                return self._compute(inputs)
        except Exception as error:
            raise_memory_error(error, self.device)
            raise

    def _compute(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        torch = self._torch
        # torch does not support read-only arrays and negative strides: such arrays are copied.
        # Both contexts apply to the current thread only.
        with torch.inference_mode(), self._stream():
            result = self._module(*(self.tensor(name, inputs[name]) for name in self.arguments))
            outputs = result if isinstance(result, tuple) else (result,)
            if len(outputs) != len(self._outputs):
                expected = len(self._outputs)
                raise ValueError(f"the network gives {len(outputs)} outputs, not {expected}")
            return {
                name: _numbers(tensor.cpu(), torch.bfloat16)
                for name, tensor in zip(self._outputs, outputs, strict=True)
            }

    def tensor(self, name: str, array: NDArray[Any]) -> Any:
        """Return an input as a tensor on the device."""
        tensor = self._torch.from_numpy(np.require(array, requirements=["C", "W"]))
        dtype = self._torch.bfloat16 if name in self._bfloat16 else None
        return tensor.to(self.device, dtype=dtype)

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """Compute on a GPU stream that no other thread uses.

        torch's default is one stream for the whole process, on which one hung kernel would block
        every model. A computation that hangs keeps its stream, and the next one gets another. A
        computation that ends has waited for its outputs, so its stream is idle and is reused with
        the memory that it has allocated.
        """
        if self.device == "cpu":
            yield
            return
        cuda = self._torch.cuda
        stream = self._streams.pop() if self._streams else cuda.Stream(self.device)
        try:
            with cuda.stream(stream):
                yield
        finally:
            self._streams.append(stream)

    def mismatch(self, card: ModelCard) -> str | None:
        """Return how the arguments differ from the card's inputs; None if they agree.

        The recorded prediction, repeated on every load, checks datatypes and shapes.
        """
        expected = {spec.name for spec in card.inputs}
        if set(self.arguments) != expected:
            return (
                f"the module's arguments are {', '.join(self.arguments)}; "
                f"the card says {', '.join(sorted(expected))}"
            )
        return None


def _numbers(tensor: Any, bfloat16: Any) -> NDArray[Any]:
    """Return the numbers of a tensor; those of BF16 as FP32 (`models.runtimes.bfloat16`)."""
    numbers: NDArray[Any] = (tensor.float() if tensor.dtype == bfloat16 else tensor).numpy()
    return numbers


class TorchScriptRuntime(TorchRuntime):
    """`model.pt` in TorchScript. Loading runs the code in the file."""

    name: RuntimeName = "torchscript"

    def _loaded(self, content: bytes) -> Any:
        jit = self._torch.jit
        with warnings.catch_warnings():  # torch has deprecated TorchScript
            warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated")
            with self._flush_to_zero:
                module = jit.load(io.BytesIO(content), map_location=self.device).eval()
                frozen = jit.freeze(module)
        arguments = module.forward.schema.arguments[1:]
        self.arguments = tuple(argument.name for argument in arguments)
        self.cost_varies = any(
            frozen.graph.findAllNodes(name if "::" in name else f"aten::{name}", recurse=True)
            for name in _VARYING_FUNCTIONS
        )
        return frozen


class ProgramRuntime(TorchRuntime):
    """`model.pt2`, a program of torch.export: a graph of torch's operators, without other code."""

    name: RuntimeName = "pt2"

    def _loaded(self, content: bytes) -> Any:
        from torch.export.passes import move_to_device_pass

        with warnings.catch_warnings(), self._flush_to_zero:
            warnings.simplefilter("ignore")  # of torch's own code
            program = self._torch.export.load(io.BytesIO(content))
            if self.device != "cpu":
                program = move_to_device_pass(program, self.device)
            # The card's shapes have been checked.
            module = program.module(check_guards=False)
        leaves = self._torch.utils._pytree.tree_leaves
        positional = program.call_spec.in_spec.child(0).num_children
        self.program = program
        """The program, a `torch.export.ExportedProgram`."""
        self.arguments = tuple(program.graph_signature.user_inputs)
        names = {
            str(node.target).split(".")[1]
            for node in program.graph.nodes
            if str(node.target).startswith("aten.")
        }
        branches = any(node.op == "get_attr" for node in program.graph.nodes)  # of torch.cond
        self.cost_varies = branches or not names.isdisjoint(_VARYING_FUNCTIONS)

        def compute(*tensors: Any) -> tuple[Any, ...]:
            named = dict(zip(self.arguments[positional:], tensors[positional:], strict=True))
            return tuple(leaves(module(*tensors[:positional], **named)))

        return compute


TORCH_RUNTIMES: dict[RuntimeName, type[TorchRuntime]] = {
    runtime.name: runtime for runtime in (TorchScriptRuntime, ProgramRuntime)
}
