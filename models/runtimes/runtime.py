"""The interface of the runtimes, named arrays in and out, and ONNX Runtime behind it.

Each runtime imports its library on use. The libraries are large, and a service that runs on ONNX
Runtime need not install torch (`models.runtimes.torch_runtimes`).
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from models.kinds.tensor_spec import Datatype, TensorSpec
from models.package.card import ModelCard, RuntimeName
from models.runtimes import bfloat16
from models.runtimes.arena import bound_session, current_arena, run_options
from models.runtimes.devices import is_out_of_memory
from models.runtimes.onnx_library import (
    Weights,
    cuda_failure,
    load_cuda,
    load_onnxruntime,
    take_weights,
)
from models.runtimes.onnx_operators import names_any
from models.runtimes.subnormals import FlushToZero, without_subnormals

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
    bfloat16.ONNX_TYPE: "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_CUDA = "CUDAExecutionProvider"
CUDA_OPTIONS: Mapping[str, str] = {
    "use_tf32": "0",
    # The default searches for an algorithm at each new shape, and each batch size is a new shape.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Each model of each worker has its own arena. The default doubles an arena on growth, which
    # takes memory from the other models on the GPU.
    "arena_extend_strategy": "kSameAsRequested",
}
"""The options of ONNX Runtime on a GPU, apart from the device."""
_CUDA_FAILURE = re.compile(r"CU[A-Z]+ failure \d+: [^;]+")  # the machine's name follows

_VARYING_OPERATORS = (
    *("Loop", "If", "Scan", "SequenceMap"),  # they hold graphs
    *("Range", "ConstantOfShape", "Expand", "Tile", "OneHot", "Resize", "Upsample", "Pad"),
    *("Tokenizer", "StringSplit"),  # they fill each row up to the one with the most parts
)
"""The operators of ONNX whose work depends on the values of their inputs."""


class Runtime(Protocol):
    """A loaded network on one device. Use it from one thread at a time.

    On a CPU, subnormal floats count as zero (`models.runtimes.subnormals`).
    """

    name: RuntimeName
    device: str
    cost_varies: bool
    """Whether the time and the memory of a batch may depend on its values: by loops, branches, or
    operators that make as many elements as a value says."""

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the outputs of one batch. The inputs have the card's names, dtypes and shapes.

        Raises:
            MemoryError: the device has too little memory for the batch.
            Exception: any other error of the network or its library.
        """
        ...


class DeclaredTensor(NamedTuple):
    """An input or output as an ONNX graph declares it.

    A free dimension is a name or None. An empty `shape` means a single value or an unknown shape:
    ONNX Runtime reports both in the same way.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def datatype(self) -> Datatype | None:
        """The datatype, or None if packages do not support it."""
        return _ONNX_DATATYPES.get(self.type)

    def allows(self, spec: TensorSpec) -> bool:
        """Return whether `spec` fits the graph; it may state sizes that the graph leaves free."""
        if self.datatype != spec.datatype or len(self.shape) not in (0, len(spec.shape)):
            return False
        stated = zip(self.shape, spec.shape, strict=False)
        return all(size == specified for size, specified in stated if isinstance(size, int))

    def to_text(self) -> str:
        """Return the datatype and shape, as `UINT8 [-1, 28, 28]`."""
        sizes = [size if isinstance(size, int) else -1 for size in self.shape]
        return f"{self.datatype or self.type} {sizes}"


class OnnxRuntime:
    """`model.onnx` in ONNX Runtime, on `cpu` or `cuda:<index>`.

    Args:
        content: the ONNX file.
        device: the device. On a GPU, TF32 is off so that results equal those of a CPU.
        threads: threads for one batch; 0 leaves the choice to ONNX Runtime.
        optimized: whether ONNX Runtime may rewrite the graph.
        bounded: whether the computations on a CPU share the arena of this process
            (`models.runtimes.arena`), if it has one.
        weights: the content of the file of weights beside it; None if it contains its weights.

    Attributes:
        device: the device in use. It is `cpu` also if a GPU was requested and ONNX Runtime assigned
            no operator to it.

    Raises:
        DeviceError: ONNX Runtime cannot use the device.
    """

    name: RuntimeName = "onnx"

    def __init__(
        self,
        content: bytes,
        device: str = "cpu",
        threads: int = 0,
        *,
        optimized: bool = True,
        bounded: bool = False,
        weights: Weights | None = None,
    ) -> None:
        onnxruntime = load_onnxruntime()
        self.device = device
        options = onnxruntime.SessionOptions()
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        self.cost_varies = may_vary_in_cost(content)
        self._arena = current_arena() if bounded and device == "cpu" else None
        if self._arena is not None:
            bound_session(options)
        elif self.cost_varies:  # ONNX Runtime would keep the memory of the most expensive batch
            options.enable_cpu_mem_arena = False
        # Errors are raised and logged by the service. ONNX Runtime's own log lines are not JSON.
        options.log_severity_level = 4
        # By default, ONNX Runtime reads bytes that look like its own format as that. The checks of
        # `models add` read ONNX, and a file can be both.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Spinning threads would take the core that the event loop needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # ONNX Runtime sets the mode of its own threads when they start. The threads that call a
        # session need `FlushToZero`.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        # By default, ONNX Runtime computes with inputs of eight bits where weights have four.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        take_weights(options, weights)
        providers: list[Any] = ["CPUExecutionProvider"]
        if device != "cpu":
            load_cuda(device)
            providers.insert(
                0, (_CUDA, {"device_id": device.removeprefix("cuda:"), **CUDA_OPTIONS})
            )
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        self._flush_to_zero = FlushToZero()
        # By default, a session silently continues on the CPU after a failure on the GPU.
        with self._flush_to_zero:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=providers, enable_fallback=0
            )
        if device != "cpu":
            if _CUDA not in self._session.get_providers():
                raise cuda_failure(device)
            assigned = self._session.get_provider_graph_assignment_info()
            if not any(part.ep_name == _CUDA for part in assigned):
                self.device = "cpu"
        self._run = bfloat16.run_of(self._session)
        self._tells_subnormals = names_any(content, ("Log", "Pow"))
        self.inputs = _declared(self._session.get_inputs())
        self.outputs = _declared(self._session.get_outputs())
        self._names = [output.name for output in self.outputs]

    @property
    def defaults(self) -> list[str]:
        """The names of the inputs that have default values."""
        return [value.name for value in self._session.get_overridable_initializers()]

    @property
    def producer(self) -> str:
        """The name of the program that wrote the file; empty if the file does not state it."""
        return str(self._session.get_modelmeta().producer_name)

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute the outputs of one batch, as `Runtime` says."""
        if self._tells_subnormals:  # the C library's functions do not take them for zero
            inputs = {name: without_subnormals(array) for name, array in inputs.items()}
        try:
            with self._flush_to_zero:
                if self._arena is None:
                    results = self._run(self._names, dict(inputs))
                else:
                    run = partial(self._run, self._names, dict(inputs), run_options())
                    results = self._arena.compute(run)
        except MemoryError:
            raise
        except Exception as error:
            raise_memory_error(error, self.device)
            raise
        return dict(zip(self._names, results, strict=True))

    def mismatch(self, card: ModelCard) -> str | None:
        """Return how the graph's inputs and outputs differ from the card's; None if they agree.

        The card may state a size that the graph leaves free: the recorded prediction checks it.
        """
        for kind, declared, specs in (
            ("inputs", self.inputs, card.inputs),
            ("outputs", self.outputs, card.outputs),
        ):
            in_graph = {tensor.name: tensor for tensor in declared}
            if set(in_graph) != {spec.name for spec in specs}:
                expected = ", ".join(spec.name for spec in specs)
                return f"the graph's {kind} are {', '.join(in_graph)}; the card says {expected}"
            for spec in specs:
                if not in_graph[spec.name].allows(spec):
                    return (
                        f"{spec.name} is {in_graph[spec.name].to_text()} in the graph; "
                        f"the card says {spec.to_text()}"
                    )
        return None


def may_vary_in_cost(content: bytes) -> bool:
    """Return whether the cost of an ONNX file may depend on values, as `Runtime.cost_varies`."""
    return names_any(content, _VARYING_OPERATORS)


def _declared(nodes: Sequence[Any]) -> tuple[DeclaredTensor, ...]:
    return tuple(DeclaredTensor(node.name, node.type, tuple(node.shape)) for node in nodes)


def raise_memory_error(error: Exception, device: str) -> None:
    """Raise MemoryError if the error of a network says that the device has too little memory."""
    if is_out_of_memory(error):
        raise MemoryError(f"{device} has too little memory ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """Return the message of an error on one line.

    For a TorchScript traceback, the last line is returned: the reason. For a CUDA failure in ONNX
    Runtime, the name of the machine and the source location are left out.
    """
    text = str(error).strip()
    if failed := _CUDA_FAILURE.search(text):
        return failed[0].strip()
    lines = text.splitlines()
    return " ".join(line.strip() for line in (lines[-1:] if "Traceback" in text else lines))
