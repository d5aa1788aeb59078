"""The two runtimes behind one call: named arrays in, named arrays out.

`open_runtime` gives a `Runtime` only for a file whose bytes match the card, whose graph takes and
gives what the card says, and which reproduces the card's recorded prediction. Training proves its
exports with the same code that serves them.

torch and ONNX Runtime are imported where they are used: each is large, and a service that runs on
one need not have the other.
"""

import io
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.card import MODEL_FILES, Datatype, Example, ModelCard, RuntimeName, TensorSpec
from models.devices import DeviceError, is_out_of_memory, torch_problem
from models.differences import relative_difference, tolerated
from models.onnx_library import cuda_failure, load_cuda, load_onnxruntime
from models.package import ModelPackage, PackageError

Arrays = Mapping[str, NDArray[Any]]
"""Tensors by name. The first axis of each is the batch of rows."""

_ONNX_DATATYPES: Mapping[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
}

_CUDA = "CUDAExecutionProvider"
_CUDA_FAILURE = re.compile(r"CU[A-Z]+ failure \d+: [^;]+")  # the machine's name follows

# The operators of ONNX that hold graphs, as an operator stands in a file: field 4, its length, its
# name. Bytes of a weight may look like one; then a steady network counts as unsteady, no more.
_CONTROL_FLOW = (b"\x22\x04Loop", b"\x22\x02If", b"\x22\x04Scan", b"\x22\x0bSequenceMap")


class Runtime(Protocol):
    """A loaded network on one device. Not for use from several threads at once."""

    name: RuntimeName
    device: str
    steady: bool
    """Whether any input of one shape takes as long: there are no loops and no branches in it."""

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute the outputs of one batch; inputs have the card's names, dtypes and shapes.

        Raises:
            MemoryError: the device has too little memory for the batch.
            Exception: whatever else the network or its runtime fails with.
        """
        ...


class DeclaredTensor(NamedTuple):
    """An input or output as an ONNX graph declares it.

    A dimension that the graph leaves free is a name or None. An empty `shape` is that of a single
    value, or of a tensor whose shape the graph does not state: ONNX Runtime tells both alike.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def datatype(self) -> Datatype | None:
        """The datatype, or None where it is none that a package may use."""
        return _ONNX_DATATYPES.get(self.type)

    def may_be(self, spec: TensorSpec) -> bool:
        """Whether `spec` says the same, and is free to add what the graph does not state."""
        if self.datatype != spec.datatype or len(self.shape) not in (0, len(spec.shape)):
            return False
        stated = zip(self.shape, spec.shape, strict=False)
        return all(size == said for size, said in stated if isinstance(size, int))

    def describe(self) -> str:
        """Datatype and shape on one line, as `UINT8 [-1, 28, 28]`."""
        sizes = [size if isinstance(size, int) else -1 for size in self.shape]
        return f"{self.datatype or self.type} {sizes}"


class OnnxRuntime:
    """`model.onnx` in ONNX Runtime, on `cpu` or `cuda:<index>`.

    Args:
        content: the ONNX file.
        device: where to compute. On a GPU, TF32 stays off so that answers equal the CPU's.
        threads: threads for one batch; 0 leaves the choice to ONNX Runtime.

    Attributes:
        device: where it computes: `cpu` on a GPU too, where no operator of it computes on CUDA.

    Raises:
        DeviceError: ONNX Runtime cannot use the device.
    """

    name: RuntimeName = "onnx"

    def __init__(self, content: bytes, device: str = "cpu", threads: int = 0) -> None:
        onnxruntime = load_onnxruntime()
        self.device = device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its errors are raised, and logged with the rest; lines of its own are no JSON.
        options.log_severity_level = 4
        # Spinning threads would take the core that the event loop needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights in a file beside this one have no digest: they are looked for where nothing is.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", os.devnull
        )
        providers: list[Any] = ["CPUExecutionProvider"]
        if device != "cpu":
            load_cuda(device)
            cuda = {
                "device_id": device.removeprefix("cuda:"),
                "use_tf32": "0",
                # Each batch size is a shape of its own, and the default searches at each new one.
                "cudnn_conv_algo_search": "HEURISTIC",
            }
            providers.insert(0, (_CUDA, cuda))
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # By itself it would go on on the CPU after a failure on the GPU, and say nothing.
        self._session = onnxruntime.InferenceSession(
            content, options, providers=providers, enable_fallback=0
        )
        if device != "cpu":
            if _CUDA not in self._session.get_providers():
                raise cuda_failure(device)
            assigned = self._session.get_provider_graph_assignment_info()
            if not any(part.ep_name == _CUDA for part in assigned):
                self.device = "cpu"
        self.steady = not any(node in content for node in _CONTROL_FLOW)
        self.inputs = _declared(self._session.get_inputs())
        self.outputs = _declared(self._session.get_outputs())
        self._names = [output.name for output in self.outputs]

    @property
    def defaults(self) -> list[str]:
        """The names of the inputs that may be left out."""
        return [value.name for value in self._session.get_overridable_initializers()]

    @property
    def producer(self) -> str:
        """The program that wrote the file, as it says itself; empty where it does not."""
        return str(self._session.get_modelmeta().producer_name)

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute the outputs of one batch, as `Runtime` says."""
        try:
            answers = self._session.run(self._names, dict(inputs))
        except Exception as error:
            _raise_memory_error(error, self.device)
            raise
        return dict(zip(self._names, answers, strict=True))

    def mismatch(self, card: ModelCard) -> str | None:
        """How the graph's inputs and outputs differ from the card's; None where they agree.

        Where the graph leaves a size open the card may state one: the recorded prediction has it.
        """
        for kind, declared, specs in (
            ("inputs", self.inputs, card.inputs),
            ("outputs", self.outputs, card.outputs),
        ):
            in_graph = {tensor.name: tensor for tensor in declared}
            if set(in_graph) != {spec.name for spec in specs}:
                said = ", ".join(spec.name for spec in specs)
                return f"the graph's {kind} are {', '.join(in_graph)}; the card says {said}"
            for spec in specs:
                if not in_graph[spec.name].may_be(spec):
                    return (
                        f"{spec.name} is {in_graph[spec.name].describe()} in the graph; "
                        f"the card says {spec.describe()}"
                    )
        return None


def _declared(nodes: Sequence[Any]) -> tuple[DeclaredTensor, ...]:
    return tuple(DeclaredTensor(node.name, node.type, tuple(node.shape)) for node in nodes)


class TorchScriptRuntime:
    """`model.pt` in TorchScript, on `cpu` or `cuda:<index>`.

    Args:
        content: the TorchScript file. Loading it runs the code in it.
        device: where to compute. On a GPU, TF32 stays off so that answers equal the CPU's.
        threads: threads of this process for one batch; 0 leaves the choice to torch.
        outputs: names for what the module returns, in order.
    """

    name: RuntimeName = "torchscript"

    def __init__(
        self, content: bytes, device: str = "cpu", threads: int = 0, *, outputs: Sequence[str]
    ) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        if device != "cpu":
            if problem := torch_problem(device):
                raise DeviceError(f"torch cannot compute on {device}: {problem}")
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
            # Nor sums in half precision: a CPU has none.
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.device = device
        self._torch = torch
        self._outputs = tuple(outputs)
        with warnings.catch_warnings():  # deprecated in torch, and what this format needs
            warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated")
            module = torch.jit.load(io.BytesIO(content), map_location=device).eval()
            arguments = module.forward.schema.arguments[1:]
            self._inputs = tuple(argument.name for argument in arguments)
            self._module = torch.jit.freeze(module)
        self.steady = not any(
            self._module.graph.findAllNodes(kind, recurse=True)
            for kind in ("prim::Loop", "prim::If")
        )

    @property
    def graph(self) -> Any:
        """The module's code, as a `torch.Graph`."""
        return self._module.graph

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute the outputs of one batch, as `Runtime` says."""
        try:
            return self._compute(inputs)
        except Exception as error:
            _raise_memory_error(error, self.device)
            raise

    def _compute(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        torch = self._torch
        with torch.inference_mode():  # it holds for this thread only, so it is entered here
            # torch takes no array that is read-only or runs backwards: those are copied.
            arrays = (np.require(inputs[name], requirements=["C", "W"]) for name in self._inputs)
            result = self._module(*(torch.from_numpy(array).to(self.device) for array in arrays))
            outputs = result if isinstance(result, tuple) else (result,)
            if len(outputs) != len(self._outputs):
                wanted = len(self._outputs)
                raise ValueError(f"the module gives {len(outputs)} outputs, not {wanted}")
            return {
                name: tensor.cpu().numpy()
                for name, tensor in zip(self._outputs, outputs, strict=True)
            }

    def mismatch(self, card: ModelCard) -> str | None:
        """How the module's arguments differ from the card's inputs; None where they agree.

        A TorchScript module states neither datatypes nor shapes: the recorded prediction, which
        every load repeats, is what checks those.
        """
        said = {spec.name for spec in card.inputs}
        if set(self._inputs) != said:
            return (
                f"the module's arguments are {', '.join(self._inputs)}; "
                f"the card says {', '.join(sorted(said))}"
            )
        return None


def _raise_memory_error(error: Exception, device: str) -> None:
    if is_out_of_memory(error):
        raise MemoryError(f"{device} has too little memory ({brief(error)})") from error


def open_runtime(
    package: ModelPackage, name: RuntimeName, device: str = "cpu", threads: int = 0
) -> Runtime:
    """Load one file of `package` and prove that it is what the card says.

    Args:
        package: the package; the file's digest is checked before anything is loaded.
        name: which runtime, and so which file.
        device: `cpu` or `cuda:<index>`.
        threads: threads for one batch; 0 leaves the choice to the runtime.

    Raises:
        DeviceError: the runtime cannot use the device on this machine, or what fails there is right
            on the CPU.
        PackageError: the file is missing, altered, or not loadable; the graph does not fit the
            card; or the first prediction is not the recorded one.
    """
    try:
        return _opened(package, name, device, threads)
    except PackageError as error:
        if device == "cpu":
            raise
        _opened(package, name, "cpu", threads)  # if it fails here too, it is the file's fault
        raise DeviceError(f"{device} fails where the CPU does not: {error.reason}") from error


def _opened(package: ModelPackage, name: RuntimeName, device: str, threads: int) -> Runtime:
    card, file = package.card, MODEL_FILES[name]
    content = package.load(file)
    runtime: OnnxRuntime | TorchScriptRuntime
    try:
        if name == "onnx":
            runtime = OnnxRuntime(content, device, threads)
        else:
            outputs = [spec.name for spec in card.outputs]
            runtime = TorchScriptRuntime(content, device, threads, outputs=outputs)
    except (DeviceError, ImportError):
        raise
    except Exception as error:
        raise PackageError(package.label, file, f"it cannot be loaded ({brief(error)})") from error
    mismatch = runtime.mismatch(card) or recall(runtime, card.example, card.outputs)
    if mismatch:
        raise PackageError(package.label, file, mismatch)
    return runtime


def recall(runtime: Runtime, example: Example, outputs: Sequence[TensorSpec]) -> str | None:
    """Repeat the recorded prediction; say how the answer differs, or None where it does not."""
    try:
        answer = _answer_to(example, runtime)
    except Exception as error:  # noqa: BLE001 - whatever it is, the file is refused by name
        return f"the recorded prediction fails on {runtime.device} ({brief(error)})"
    return _mismatch(answer, example, outputs)


def example_mismatch(
    compute: Callable[[Arrays], Arrays], example: Example, outputs: Sequence[TensorSpec]
) -> str | None:
    """As `recall`, of whatever computes as a runtime does."""
    try:
        return _mismatch(_answer_to(example, compute), example, outputs)
    except Exception as error:  # noqa: BLE001 - whatever it is, the example was not computed
        return f"the recorded prediction fails ({brief(error)})"


def _answer_to(example: Example, compute: Callable[[Arrays], Arrays]) -> Arrays:
    return compute({name: tensor.array() for name, tensor in example.inputs.items()})


def _mismatch(answer: Arrays, example: Example, outputs: Sequence[TensorSpec]) -> str | None:
    for spec in outputs:
        found, recorded = answer[spec.name], example.outputs[spec.name].array()
        if found.shape != recorded.shape or found.dtype != recorded.dtype:
            return (
                f"{spec.name} of the recorded prediction is {found.dtype} {list(found.shape)}; "
                f"the card says {recorded.dtype} {list(recorded.shape)}"
            )
        if recorded.dtype.kind != "f":
            if not np.array_equal(found, recorded):
                return f"{spec.name} is another whole number than the recorded prediction's"
            continue
        difference = relative_difference(found, recorded, probabilities=spec.is_probabilities)
        tolerance = tolerated(example.tolerance, recorded.dtype)
        if difference.max(initial=0.0) > tolerance:
            return (
                f"{spec.name} differs from the recorded prediction by {difference.max():.2g}, "
                f"more than {tolerance:g}"
            )
    return None


def brief(error: Exception) -> str:
    """The message on one line.

    Of a TorchScript traceback it is the last line, which is the reason. Of a failure of CUDA in
    ONNX Runtime it is what failed, without this machine's name and the place in the source.
    """
    text = str(error).strip()
    if failed := _CUDA_FAILURE.search(text):
        return failed[0].strip()
    lines = text.splitlines()
    return " ".join(line.strip() for line in (lines[-1:] if "Traceback" in text else lines))
