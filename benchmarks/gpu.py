"""What each way to a GPU takes, by batch size: `python -m benchmarks.gpu`.

Both runtimes compute `mnist-cnn` on the first CUDA device, from images in the host's memory to
probabilities there:

- `as served`: as the service calls them, with copies from and to pageable memory;
- `pinned`: through pinned staging buffers, on a stream of their own;
- `overlapped`: two of these in turn, so that one batch is copied while the other is computed;
- `graph`: as `pinned`, the compute replayed as a CUDA graph;
- `in process`: the compute alone, on images that lie on the device.

Then the service answers the same images over HTTP. Every way takes its turn in each round, and its
answers are held against the CPU's. Exit status 2 where there is no CUDA device.
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
from benchmarks.serving.processes import running
from benchmarks.serving.servers import FITSERVE, Server
from benchmarks.serving.work import Images, images, v2_binary
from models.card import RuntimeName
from models.onnx_library import load_cuda
from models.repository import ModelRepository
from models.runtimes import OnnxRuntime, Runtime, open_runtime
from service.settings import ROOT

PACKAGE = ModelRepository(ROOT / "models").get("mnist-cnn", "1")
DEVICE = "cuda:0"
SIZES = (1, 8, 64, 256, 1024)
TOLERANCE = 1e-3
"""The largest |difference| of a probability from the CPU's, as the tests have it."""

Probabilities = NDArray[np.float32]
Compute = Callable[[], Tensor]
"""Computes one batch, from and to memory of the device that stays where it is."""
Prepare = Callable[[Tensor], Compute]
"""Makes the compute of a batch that lies on the device, on the stream that is current."""
Way = Callable[[Iterable[Images]], Iterator[Probabilities]]
"""Answers batches of one size, in their order."""


def torch_compute(batch: Tensor) -> Compute:
    """TorchScript, one kernel launched after another."""
    content = io.BytesIO(PACKAGE.load("model.pt"))
    module = torch.jit.freeze(torch.jit.load(content, map_location=DEVICE).eval())
    return lambda: module(batch)


def torch_graph(batch: Tensor) -> Compute:
    """TorchScript, captured once and replayed."""
    compute = torch_compute(batch)
    for _ in range(5):  # the first runs profile and fuse
        compute()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        answers = compute()

    def replay() -> Tensor:
        graph.replay()
        return answers

    return replay


def onnx_compute(batch: Tensor, **options: str) -> Compute:
    """ONNX Runtime, bound to the memory of its input and output."""
    stream = torch.cuda.current_stream()
    load_cuda(DEVICE)
    cuda = {"device_id": "0", "use_tf32": "0", "user_compute_stream": str(stream.cuda_stream)}
    session = onnxruntime.InferenceSession(
        PACKAGE.load("model.onnx"),
        providers=[("CUDAExecutionProvider", cuda | options)],
        enable_fallback=0,  # it would go on on the CPU, and be measured there
    )
    answers = torch.empty((len(batch), 10), device=batch.device)
    binding = session.io_binding()
    binding.bind_input("image", "cuda", 0, np.uint8, tuple(batch.shape), batch.data_ptr())
    binding.bind_output(
        "probabilities", "cuda", 0, np.float32, tuple(answers.shape), answers.data_ptr()
    )
    unwaited = onnxruntime.RunOptions()
    unwaited.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def compute() -> Tensor:
        session.run_with_iobinding(binding, unwaited)
        return answers

    return compute


def onnx_graph(batch: Tensor) -> Compute:
    """ONNX Runtime, which captures its first run and replays it."""
    return onnx_compute(batch, enable_cuda_graph="1")


PREPARED: Mapping[RuntimeName, tuple[Prepare, Prepare]] = {
    "onnx": (onnx_compute, onnx_graph),
    "torchscript": (torch_compute, torch_graph),
}


class Stage:
    """Pinned buffers for one batch of `rows` images, and a stream of their own."""

    def __init__(self, prepare: Prepare, rows: int) -> None:
        self.stream = torch.cuda.Stream()
        self._sent = torch.empty((rows, 28, 28), dtype=torch.uint8, pin_memory=True)
        self._found = torch.empty((rows, 10), pin_memory=True)
        self._batch = torch.zeros((rows, 28, 28), dtype=torch.uint8, device=DEVICE)
        torch.cuda.synchronize()
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            self._compute = prepare(self._batch)

    def begin(self, batch: Images) -> None:
        """Have one batch computed."""
        self._sent.numpy()[:] = batch
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            self._batch.copy_(self._sent, non_blocking=True)
            self._found.copy_(self._compute(), non_blocking=True)

    def end(self) -> Probabilities:
        """Wait for its answer."""
        self.stream.synchronize()
        found: Probabilities = self._found.numpy().copy()
        return found

    def compute(self) -> None:
        """Compute the batch that lies on the device once more, and wait."""
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            self._compute()
        self.stream.synchronize()


def as_served(runtime: Runtime) -> Way:
    """One batch after another, as the service has them computed."""
    return lambda batches: (runtime({"image": batch})["probabilities"] for batch in batches)


def staged(stages: Sequence[Stage]) -> Way:
    """The stages in turn: while one waits for its answer, the next has begun."""

    def answer(batches: Iterable[Images]) -> Iterator[Probabilities]:
        begun: list[Stage] = []
        for stage, batch in zip(cycle(stages), batches, strict=False):
            if len(begun) == len(stages):
                yield begun.pop(0).end()
            stage.begin(batch)
            begun.append(stage)
        yield from (stage.end() for stage in begun)

    return answer


def alone(stage: Stage, batch: Images) -> Way:
    """The compute of `batch`, which lies on the device, and no copies. It gives no answers."""
    stage.begin(batch)
    stage.end()

    def answer(batches: Iterable[Images]) -> Iterator[Probabilities]:
        for _ in batches:
            stage.compute()
            yield np.empty((0, 10), np.float32)

    return answer


def ways(name: RuntimeName, rows: int) -> dict[str, Way]:
    """Every way of one runtime, for batches of so many rows."""
    plain, graph = PREPARED[name]
    return {
        f"{name}, as served": as_served(open_runtime(PACKAGE, name, DEVICE)),
        f"{name}, pinned": staged([Stage(plain, rows)]),
        f"{name}, overlapped": staged([Stage(plain, rows), Stage(plain, rows)]),
        f"{name}, graph": staged([Stage(graph, rows)]),
        f"{name}, in process": alone(Stage(plain, rows), images(rows)),
    }


def check(way: Way, batches: Sequence[Images], expected: Sequence[Probabilities]) -> float:
    """The largest difference of the answers to `batches`, in turn, from those of the CPU."""
    pairs = zip(way(batches), expected, strict=True)
    return max((float(np.abs(a - b).max()) for a, b in pairs if len(a)), default=0.0)


def measure(way: Way, batches: Sequence[Images], calls: int) -> tuple[float, float]:
    """Milliseconds of one batch alone, the median; and images a second of many in a row."""
    took = []
    for batch in islice(cycle(batches), calls):
        started = time.perf_counter()
        for _ in way([batch]):
            pass
        took.append(time.perf_counter() - started)
    started = time.perf_counter()
    count = sum(1 for _ in way(islice(cycle(batches), calls)))
    seconds = time.perf_counter() - started
    return statistics.median(took) * 1e3, count * len(batches[0]) / seconds


def calls_within(way: Way, batch: Images, seconds: float) -> int:
    """How many calls take about so long, at least 20."""
    for _ in range(5):
        list(way([batch]))
    started = time.perf_counter()
    list(way([batch]))
    return max(20, round(seconds / (time.perf_counter() - started)))


def show(title: str, samples: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
    """A table: a row for each way, a column for each batch size; medians and their spread."""
    sizes = list(next(iter(samples.values())))
    print(f"\n### {title}\n\n|  | {' | '.join(map(str, sizes))} |\n| --- |{' --- |' * len(sizes)}")
    for name, by_size in samples.items():
        cells = [
            f"{statistics.median(found):,.4g} ({min(found):,.4g} to {max(found):,.4g})"
            for found in by_size.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def on_gpu(name: RuntimeName) -> Server:
    """The service with one runtime on the GPU, which the others' servers do not see."""
    settings = {
        "FITSERVE_DEVICE": DEVICE,
        "FITSERVE_RUNTIME": name,
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
    }
    return replace(FITSERVE, settings={**FITSERVE.settings, **settings})


def check_placement(url: str, name: RuntimeName) -> None:
    """Hold what the service says of itself against what is to be measured.

    Raises:
        LoadError: it computes elsewhere.
    """
    serving = httpx.get(f"{url}/models/{PACKAGE.card.name}", timeout=30).json()["serving"]
    found = (serving["runtime"], serving["device"])
    if found != (name, DEVICE):
        raise LoadError(f"the service computes with {' on '.join(found)}, not {name} on {DEVICE}")


def end_to_end(sizes: Sequence[int], rounds: int, seconds: float) -> None:
    """The service on the GPU, asked over HTTP with binary tensors from 4 connections."""
    path = f"/v2/models/{PACKAGE.card.name}/infer"
    found: dict[str, dict[int, list[float]]] = {}
    for name in PREPARED:
        by_size = found.setdefault(f"{name}, the service", {size: [] for size in sizes})
        for _ in range(rounds):
            with running(on_gpu(name)) as up:
                check_placement(up.url, name)
                for size in sizes:
                    form = v2_binary(size)
                    bodies = [form.body(images(size))]
                    load = wrk(up.url + path, bodies, form.headers, connections=4, seconds=seconds)
                    if load.errors:
                        raise LoadError(f"the service answered with errors: {dict(load.errors)}")
                    by_size[size].append(load.requests_per_second * size)
    show("Images a second over HTTP, by images a request", found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("There is no CUDA device on this machine.", file=sys.stderr)
        return 2
    print(", ".join(machine().values()))
    print(f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}, torch {torch.__version__},")
    print(f"onnxruntime {onnxruntime.__version__}")

    network = OnnxRuntime(PACKAGE.load("model.onnx"))
    milliseconds: dict[str, dict[int, list[float]]] = {}
    per_second: dict[str, dict[int, list[float]]] = {}
    for size in chosen.sizes:
        batches = [np.roll(images(size), shift, axis=2) for shift in range(4)]
        expected = [network({"image": batch})["probabilities"] for batch in batches]
        every = {name: way for kind in PREPARED for name, way in ways(kind, size).items()}
        calls = {}
        for name, way in every.items():
            difference = check(way, batches, expected)
            if not difference <= TOLERANCE:
                print(f"{name} differs by {difference:g} from the CPU", file=sys.stderr)
                return 1
            calls[name] = calls_within(way, batches[0], chosen.seconds / 2)
        for _ in range(chosen.rounds):
            for name, way in every.items():
                alone_ms, many = measure(way, batches, calls[name])
                milliseconds.setdefault(name, {}).setdefault(size, []).append(alone_ms)
                per_second.setdefault(name, {}).setdefault(size, []).append(many)
    show("Milliseconds of one batch, by its rows", milliseconds)
    show("Images a second, by the rows of a batch", per_second)
    try:
        check_tools(["wrk"])
    except LoadError as missing:
        print(f"\nThe service was not asked. {missing}")
    else:
        end_to_end(chosen.sizes, chosen.rounds, max(chosen.seconds, 1.0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
