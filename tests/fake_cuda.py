"""A GPU where there is none: ONNX Runtime computes on the CPU and says that it computes on CUDA."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch

from models import devices, runtimes

Fault = Callable[[int], Exception | None]
"""What a batch of so many rows fails with, if with anything."""


def fake_onnx_cuda(
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault = lambda rows: None,
    *,
    computes_on: str = "CUDAExecutionProvider",
) -> list[Any]:
    """Give ONNX Runtime a GPU: sessions that are asked for CUDA say that they have it.

    Args:
        monkeypatch: undoes it.
        fault: what a batch fails with on the GPU; on the CPU none does.
        computes_on: the provider that every operator is said to be assigned to.

    Returns:
        The sessions on the GPU, one after another, as they are opened.
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
    monkeypatch.setattr(runtimes, "load_cuda", lambda device: None)
    return opened


def fake_torch_cuda(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: Sequence[tuple[int, int]],
    *,
    driver: tuple[int, int] | None = (13, 2),
) -> None:
    """Give torch so many GPUs, which it finds and cannot use.

    Args:
        monkeypatch: undoes it.
        capabilities: the compute capability of each.
        driver: the newest CUDA that the driver supports; None where there is no driver.
    """
    found = bool(capabilities and driver and driver >= (13, 0))
    monkeypatch.setattr(devices, "driver_cuda", lambda: driver)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90a", "compute_100"])
