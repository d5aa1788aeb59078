"""A fake GPU: ONNX Runtime computes on the CPU and reports CUDA."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch

from models.runtimes import devices, torch_runtimes

Fault = Callable[[int], Exception | None]
"""The error of a batch with this number of rows, if any."""


def fake_onnx_cuda(
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault = lambda rows: None,
    *,
    computes_on: str = "CUDAExecutionProvider",
) -> list[Any]:
    """Give ONNX Runtime a fake GPU: sessions that request CUDA report it.

    Args:
        monkeypatch: reverts it.
        fault: the error of a batch on the GPU; batches on the CPU do not fail.
        computes_on: the provider that all operators are reported to be assigned to.

    Returns:
        The sessions on the GPU, in the order in which they are opened.
    """
    real = onnxruntime.InferenceSession
    opened: list[Any] = []

    class Session:
        def __init__(
            self, content: bytes, options: Any, *, providers: Sequence[Any], **more: Any
        ) -> None:
            self._real = real(content, options, providers=["CPUExecutionProvider"], **more)
            self.cuda = dict(entry for entry in providers if isinstance(entry, tuple))
            if self.cuda:
                opened.append(self)

        def get_providers(self) -> list[str]:
            return [*self.cuda, "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            return [SimpleNamespace(ep_name=computes_on)]

        def run(self, names: Any, inputs: dict[str, Any]) -> Any:
            if self.cuda and (error := fault(len(next(iter(inputs.values()))))):
                raise error
            return self._real.run(names, inputs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr("models.runtimes.runtime.load_cuda", lambda device: None)
    return opened


def fake_torch_cuda(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: Sequence[tuple[int, int] | Exception],
    *,
    driver: tuple[int, int] | None = (13, 2),
    cards: int | None = None,
) -> None:
    """Give torch fake GPUs, which it lists and cannot use.

    Args:
        monkeypatch: reverts it.
        capabilities: the compute capability of each GPU, or the error of its query.
        driver: the newest CUDA that the driver supports; None without a driver.
        cards: the number of cards of the driver, if it differs from CUDA's devices.
    """
    is_available = bool(capabilities and driver and driver >= (13, 0))
    monkeypatch.setattr(devices, "driver_cuda", lambda: driver)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_available)
    counted = [len(capabilities) if cards is None else cards]  # until CUDA is queried

    def capability(index: int) -> tuple[int, int]:
        capability = capabilities[index]
        if isinstance(capability, Exception):
            raise capability
        return capability

    monkeypatch.setattr(torch.cuda, "init", lambda: counted.append(len(capabilities)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: counted[-1])
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90a", "compute_100"])


class FakeStreams:
    """Records the use of torch's streams.

    Attributes:
        made: the number of streams besides the default one.
        events: such as "synchronize cuda:0", "compute on stream 1", "read on default", in order.
    """

    def __init__(self) -> None:
        self.made = 0
        self.events: list[str] = []
        self._thread = threading.local()

    @property
    def current(self) -> str:
        """Return the stream of this thread."""
        return str(getattr(self._thread, "stream", "default"))

    def make(self, device: str) -> str:
        """Create a stream."""
        self.made += 1
        return f"stream {self.made}"

    @contextmanager
    def use(self, stream: str) -> Iterator[None]:
        """Compute on the stream."""
        before, self._thread.stream = self.current, stream
        try:
            yield
        finally:
            self._thread.stream = before


def fake_torch_streams(monkeypatch: pytest.MonkeyPatch) -> FakeStreams:
    """Let TorchScript on `cuda:0` compute on the CPU, and record the streams.

    Args:
        monkeypatch: reverts it.
    """
    streams = FakeStreams()
    load, from_numpy = torch.jit.load, torch.from_numpy

    class OnDevice(torch.Tensor):
        def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
            streams.events.append(f"read on {streams.current}")
            return self.as_subclass(torch.Tensor)

    class Host:
        def __init__(self, array: Any) -> None:
            self.array = array

        def to(self, device: str, dtype: torch.dtype | None = None) -> torch.Tensor:
            tensor = from_numpy(self.array.copy() if device != "cpu" else self.array)
            return tensor.to(dtype or tensor.dtype)

    class Module:
        """A frozen module whose outputs are on the device."""

        def __init__(self, module: Any) -> None:
            self.module = module
            self.graph = module.graph

        def __call__(self, *inputs: torch.Tensor) -> Any:
            streams.events.append(f"compute on {streams.current}")
            return self.module(*inputs).as_subclass(OnDevice)

    freeze = torch.jit.freeze
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it stays set
    monkeypatch.setattr(torch_runtimes, "torch_problem", lambda device: "")
    monkeypatch.setattr(torch.jit, "load", lambda content, map_location: load(content))
    monkeypatch.setattr(torch.jit, "freeze", lambda module: Module(freeze(module)))
    monkeypatch.setattr(torch, "from_numpy", Host)
    monkeypatch.setattr(torch.cuda, "Stream", streams.make)
    monkeypatch.setattr(torch.cuda, "stream", streams.use)
    monkeypatch.setattr(
        torch.cuda, "synchronize", lambda device: streams.events.append(f"synchronize {device}")
    )
    return streams
