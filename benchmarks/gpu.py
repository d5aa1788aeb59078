"""Benchmark of the methods of inference on a GPU, by batch size: `python -m benchmarks.gpu`.

Both runtimes compute `mnist-cnn` on the first CUDA device, from images in host memory to
probabilities in host memory:

- `as served`: as the service calls the runtime, with copies from and to pageable memory;
- `pinned`: with pinned staging buffers, on a separate stream;
- `overlapped`: two `pinned` stages alternately, so that one batch is copied while the other is
  computed;
- `graph`: as `pinned`, with the computation replayed as a CUDA graph;
- `in process`: the computation alone, on images in device memory.

Then the service computes the same images over HTTP. Each round measures every method. The outputs
of every method are compared with those of the CPU. The exit status is 2 without a CUDA device.
"""

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice

import httpx
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.serving.load import LoadError, check_tools, wrk
from benchmarks.serving.machine import machine
from benchmarks.serving.payloads import Images, images, v2_binary
from benchmarks.serving.processes import running
from benchmarks.serving.servers import FITSERVE, Server
from models.package.card import RuntimeName
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from models.runtimes.onnx_library import load_cuda
from models.runtimes.runtime import OnnxRuntime, Runtime
from service.settings import ROOT

PACKAGE = ModelRepository(ROOT / "models").get("mnist-cnn", "1")
DEVICE = "cuda:0"
SIZES = (1, 8, 64, 256, 1024)
TOLERANCE = 1e-3
"""The largest absolute difference from a probability of the CPU, as in the tests."""

Probabilities = NDArray[np.float32]
Compute = Callable[[], Tensor]
"""Computes one batch, from and to fixed device memory."""
Prepare = Callable[[Tensor], Compute]
"""Returns the computation of a batch in device memory, on the current stream."""
Method = Callable[[Iterable[Images]], Iterator[Probabilities]]
"""Computes batches of one size, in order."""


def torch_compute(batch: Tensor) -> Compute:
    """Return the TorchScript module, with one launch for each kernel."""
    content = io.BytesIO(PACKAGE.load("model.pt"))
    module = torch.jit.freeze(torch.jit.load(content, map_location=DEVICE).eval())
    return lambda: module(batch)


def torch_graph(batch: Tensor) -> Compute:
    """Return the TorchScript module, captured once as a CUDA graph and replayed."""
    compute = torch_compute(batch)
    for _ in range(5):  # the first runs profile and fuse
        compute()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        outputs = compute()

    def replay() -> Tensor:
        graph.replay()
        return outputs

    return replay


def onnx_compute(batch: Tensor, **options: str) -> Compute:
    """Return an ONNX Runtime session, bound to the memory of its input and output."""
    stream = torch.cuda.current_stream()
    load_cuda(DEVICE)
    cuda = {"device_id": "0", "use_tf32": "0", "user_compute_stream": str(stream.cuda_stream)}
    session = onnxruntime.InferenceSession(
        PACKAGE.load("model.onnx"),
        providers=[("CUDAExecutionProvider", cuda | options)],
        enable_fallback=0,  # a fallback would measure the CPU
    )
    outputs = torch.empty((len(batch), 10), device=batch.device)
    binding = session.io_binding()
    binding.bind_input("image", "cuda", 0, np.uint8, tuple(batch.shape), batch.data_ptr())
    binding.bind_output(
        "probabilities", "cuda", 0, np.float32, tuple(outputs.shape), outputs.data_ptr()
    )
    unsynchronized = onnxruntime.RunOptions()
    unsynchronized.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def compute() -> Tensor:
        session.run_with_iobinding(binding, unsynchronized)
        return outputs

    return compute


def onnx_graph(batch: Tensor) -> Compute:
    """Return an ONNX Runtime session that captures its first run and replays it."""
    return onnx_compute(batch, enable_cuda_graph="1")


PREPARED: Mapping[RuntimeName, tuple[Prepare, Prepare]] = {
    "onnx": (onnx_compute, onnx_graph),
    "torchscript": (torch_compute, torch_graph),
}


class Stage:
    """Pinned buffers for one batch of `rows` images, and a separate stream."""

    def __init__(self, prepare: Prepare, rows: int) -> None:
        self.stream = torch.cuda.Stream()
        self._host_input = torch.empty((rows, 28, 28), dtype=torch.uint8, pin_memory=True)
        self._host_output = torch.empty((rows, 10), pin_memory=True)
        self._batch = torch.zeros((rows, 28, 28), dtype=torch.uint8, device=DEVICE)
        torch.cuda.synchronize()
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            self._compute = prepare(self._batch)

    def begin(self, batch: Images) -> None:
        """Start the computation of a batch."""
        self._host_input.numpy()[:] = batch
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            self._batch.copy_(self._host_input, non_blocking=True)
            self._host_output.copy_(self._compute(), non_blocking=True)

    def end(self) -> Probabilities:
        """Wait for the result of the batch and return it."""
        self.stream.synchronize()
        probabilities: Probabilities = self._host_output.numpy().copy()
        return probabilities

    def compute(self) -> None:
        """Compute the batch in device memory again, and wait."""
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            self._compute()
        self.stream.synchronize()


def as_served(runtime: Runtime) -> Method:
    """Return the sequential computation of the service."""
    return lambda batches: (runtime({"image": batch})["probabilities"] for batch in batches)


def staged(stages: Sequence[Stage]) -> Method:
    """Return a computation that alternates between stages and starts the next before waiting."""

    def run(batches: Iterable[Images]) -> Iterator[Probabilities]:
        started: list[Stage] = []
        for stage, batch in zip(cycle(stages), batches, strict=False):
            if len(started) == len(stages):
                yield started.pop(0).end()
            stage.begin(batch)
            started.append(stage)
        yield from (stage.end() for stage in started)

    return run


def compute_only(stage: Stage, batch: Images) -> Method:
    """Return the computation of `batch` in device memory, without copies and without outputs."""
    stage.begin(batch)
    stage.end()

    def run(batches: Iterable[Images]) -> Iterator[Probabilities]:
        for _ in batches:
            stage.compute()
            yield np.empty((0, 10), np.float32)

    return run


def methods(name: RuntimeName, rows: int) -> dict[str, Method]:
    """Return the methods of a runtime, for batches of `rows` rows."""
    plain, graph = PREPARED[name]
    return {
        f"{name}, as served": as_served(open_runtime(PACKAGE, name, DEVICE)),
        f"{name}, pinned": staged([Stage(plain, rows)]),
        f"{name}, overlapped": staged([Stage(plain, rows), Stage(plain, rows)]),
        f"{name}, graph": staged([Stage(graph, rows)]),
        f"{name}, in process": compute_only(Stage(plain, rows), images(rows)),
    }


def check(method: Method, batches: Sequence[Images], expected: Sequence[Probabilities]) -> float:
    """Return the largest difference between the outputs for `batches` and those of the CPU."""
    pairs = zip(method(batches), expected, strict=True)
    return max((float(np.abs(a - b).max()) for a, b in pairs if len(a)), default=0.0)


def measure(method: Method, batches: Sequence[Images], calls: int) -> tuple[float, float]:
    """Return the median milliseconds of a single batch, and images/s of consecutive batches."""
    durations = []
    for batch in islice(cycle(batches), calls):
        started = time.perf_counter()
        for _ in method([batch]):
            pass
        durations.append(time.perf_counter() - started)
    started = time.perf_counter()
    count = sum(1 for _ in method(islice(cycle(batches), calls)))
    seconds = time.perf_counter() - started
    return statistics.median(durations) * 1e3, count * len(batches[0]) / seconds


def calls_within(method: Method, batch: Images, seconds: float) -> int:
    """Return the number of calls that take about `seconds`, at least 20."""
    for _ in range(5):
        list(method([batch]))
    started = time.perf_counter()
    list(method([batch]))
    return max(20, round(seconds / (time.perf_counter() - started)))


def show(title: str, samples: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
    """Print medians and ranges, with a row for each method and a column for each batch size."""
    sizes = list(next(iter(samples.values())))
    print(f"\n### {title}\n\n|  | {' | '.join(map(str, sizes))} |\n| --- |{' --- |' * len(sizes)}")
    for name, by_size in samples.items():
        cells = [
            f"{statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})"
            for values in by_size.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def on_gpu(name: RuntimeName) -> Server:
    """Return the service with one runtime on the GPU, which is hidden from other servers."""
    settings = {
        "FITSERVE_DEVICE": DEVICE,
        "FITSERVE_RUNTIME": name,
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
    }
    return replace(FITSERVE, settings={**FITSERVE.settings, **settings})


def check_placement(url: str, name: RuntimeName) -> None:
    """Check that the service uses the runtime and the device to be measured.

    Raises:
        LoadError: the service uses another runtime or device.
    """
    serving = httpx.get(f"{url}/models/{PACKAGE.card.name}", timeout=30).json()["serving"]
    placement = (serving["runtime"], serving["device"])
    if placement != (name, DEVICE):
        raise LoadError(
            f"the service computes with {' on '.join(placement)}, not {name} on {DEVICE}"
        )


def end_to_end(sizes: Sequence[int], rounds: int, seconds: float) -> None:
    """Measure the service on the GPU, over HTTP with binary tensors from 4 connections."""
    path = f"/v2/models/{PACKAGE.card.name}/infer"
    rates: dict[str, dict[int, list[float]]] = {}
    for name in PREPARED:
        by_size = rates.setdefault(f"{name}, the service", {size: [] for size in sizes})
        for _ in range(rounds):
            with running(on_gpu(name)) as server:
                check_placement(server.url, name)
                for size in sizes:
                    payload_format = v2_binary(size)
                    bodies = [payload_format.body(images(size))]
                    headers = payload_format.headers
                    load = wrk(server.url + path, bodies, headers, connections=4, seconds=seconds)
                    if load.errors:
                        raise LoadError(f"the service answered with errors: {dict(load.errors)}")
                    by_size[size].append(load.requests_per_second * size)
    show("Images a second over HTTP, by images a request", rates)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds of each measurement")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("There is no CUDA device on this machine.", file=sys.stderr)
        return 2
    print(", ".join(machine().values()))
    print(f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}, torch {torch.__version__},")
    print(f"onnxruntime {onnxruntime.__version__}")

    network = OnnxRuntime(PACKAGE.load("model.onnx"))
    milliseconds: dict[str, dict[int, list[float]]] = {}
    per_second: dict[str, dict[int, list[float]]] = {}
    for size in options.sizes:
        batches = [np.roll(images(size), shift, axis=2) for shift in range(4)]
        expected = [network({"image": batch})["probabilities"] for batch in batches]
        every = {name: method for kind in PREPARED for name, method in methods(kind, size).items()}
        calls = {}
        for name, method in every.items():
            difference = check(method, batches, expected)
            if not difference <= TOLERANCE:
                print(f"{name} differs by {difference:g} from the CPU", file=sys.stderr)
                return 1
            calls[name] = calls_within(method, batches[0], options.seconds / 2)
        for _ in range(options.rounds):
            for name, method in every.items():
                single_ms, images_per_second = measure(method, batches, calls[name])
                milliseconds.setdefault(name, {}).setdefault(size, []).append(single_ms)
                per_second.setdefault(name, {}).setdefault(size, []).append(images_per_second)
    show("Milliseconds of one batch, by its rows", milliseconds)
    show("Images a second, by the rows of a batch", per_second)
    try:
        check_tools(["wrk"])
    except LoadError as missing:
        print(f"\nThe service was not measured. {missing}")
    else:
        end_to_end(options.sizes, options.rounds, max(options.seconds, 1.0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
