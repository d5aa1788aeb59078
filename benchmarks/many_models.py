"""The start of a server with many models: `python -m benchmarks.many_models`.

Prints the seconds until the server is live, until its first model and until all models are ready,
and then the memory and the threads of its processes. Each repository is started twice: without the
timings of an earlier start, and with them. A server without models shows what the models take.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.serving.processes import marked, running
from benchmarks.serving.servers import FITSERVE
from models.kinds.tensor_spec import TensorSpec
from models.package.card import Example, ModelCard, RecordedTensor
from models.package.model_package import ModelPackage, write_package
from models.runtimes.runtime import OnnxRuntime
from service.settings import ROOT

SMALL, LARGE = (4, 16, 3), (512, 512, 512, 10)
"""The widths of the layers of the networks: about 1 kB and 2 MB of weights."""
MEGABYTE = 1e6
READY_SECONDS = 300.0
_POLL_SECONDS = 0.02


class Start(NamedTuple):
    """One start of a server.

    Attributes:
        live: seconds until `/livez` responded 200.
        first: seconds until a model was ready.
        ready: seconds until `/readyz` responded 200.
        cpu: CPU seconds of all processes until then.
        pss: megabytes of all processes; what several share is counted once.
        threads: of the worker.
    """

    live: float
    first: float
    ready: float
    cpu: float
    pss: float
    threads: float


def write_network(root: Path, name: str, widths: Sequence[int], seed: int) -> ModelPackage:
    """Write a package with a perceptron of random weights."""
    random, value, nodes, weights = np.random.default_rng(seed), "x", [], []
    for index, (inside, outside) in enumerate(pairwise(widths)):
        weight = random.standard_normal((inside, outside)).astype(np.float32) / np.sqrt(inside)
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{index}"))
        linear = "y" if index == len(widths) - 2 else f"linear{index}"
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [linear]))
        if linear != "y":
            value = f"relu{index}"
            nodes.append(helper.make_node("Relu", [linear], [value]))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", widths[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", widths[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content = model.SerializeToString()
    rows = random.standard_normal((2, widths[0])).astype(np.float32)
    outputs = OnnxRuntime(content, threads=1)({"x": rows})["y"]
    card = ModelCard(
        name=name,
        version="1",
        summary="Random weights.",
        task="regression",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, widths[0]), meaning="in"),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, widths[-1]), meaning="out"),),
        example=Example(
            inputs={"x": RecordedTensor.of("FP32", rows)},
            outputs={"y": RecordedTensor.of("FP32", outputs)},
            tolerance=1e-3,
        ),
        intended_use="Benchmarks.",
    )
    return write_package(root, card, {"model.onnx": content})


def write_copy(root: Path, name: str, package: ModelPackage) -> ModelPackage:
    """Write the files of a package under another name."""
    card = package.card.model_copy(update={"name": name, "version": "1"})
    return write_package(root, card, {file: package.load(file) for file in card.files})


def start(repository: Path, timings: Path, checkout: Path, name: str | None) -> Start:
    """Start a server with all packages of a repository, measure it, and end it.

    Args:
        repository: the folder of the packages.
        timings: the folder of the timings.
        checkout: the folder of the version of the service that is started.
        name: of a model that the repository has; None if it has none.
    """
    command = FITSERVE.command.replace("{root}", str(checkout))
    server = replace(FITSERVE, command=command, ready="/livez")
    settings = {
        "PYTHONPATH": str(checkout),
        "FITSERVE_MODEL_REPOSITORY": str(repository),
        "FITSERVE_TIMINGS_FOLDER": str(timings),
    }
    with (
        running(server, settings=settings) as running_server,
        httpx.Client(base_url=running_server.url) as client,
    ):
        began = time.monotonic() - running_server.start_seconds
        live = first = ready = running_server.start_seconds
        if name is not None:
            first = _seconds_until(client, f"/v2/models/{name}/ready", began)
            ready = _seconds_until(client, "/readyz", began)
        cpu = running_server.cpu_seconds()
        time.sleep(1)  # the processes for jobs import their modules
        pss = sum(process.memory_full_info().pss for process in marked(running_server.mark))
        threads = running_server.workers()[0].num_threads()
        return Start(live, first, ready, cpu, pss / MEGABYTE, threads)


def _seconds_until(client: httpx.Client, path: str, began: float) -> float:
    while time.monotonic() - began < READY_SECONDS:
        if client.get(path).status_code == 200:
            return time.monotonic() - began
        time.sleep(_POLL_SECONDS)
    raise SystemExit(f"error: {path} did not respond 200 within {READY_SECONDS:g} s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table of medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_models", description=__doc__)
    add = parser.add_argument
    add("--models", type=int, default=120, help="number of models (default: 120)")
    add("--large", action="store_true", help="networks of 2 MB in place of 1 kB")
    add("--copies-of", type=Path, metavar="DIR", help="copies of this package instead")
    add("--rounds", type=int, default=3, help="starts of each kind (default: 3)")
    add("--checkout", type=Path, action="append", help="a folder of the service; may be repeated")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fb-") as folder:
        repository, empty = Path(folder, "models"), Path(folder, "none")
        empty.mkdir()
        copied = options.copies_of and ModelPackage.read(options.copies_of.resolve())
        for index in range(options.models):
            name = f"model-{index}"
            if copied:
                write_copy(repository, name, copied)
            else:
                write_network(repository, name, LARGE if options.large else SMALL, index)
        rows: dict[tuple[str, str], list[Start]] = {}
        for number in range(options.rounds):
            for checkout in options.checkout or [ROOT]:
                timings = Path(folder, f"{checkout.name}-{number}")
                for kind, packages, model in (
                    ("none", empty, None),
                    ("first start", repository, "model-0"),
                    ("second start", repository, "model-0"),
                ):
                    measured = start(packages, timings, checkout.resolve(), model)
                    rows.setdefault((checkout.name, kind), []).append(measured)
                    print(checkout.name, kind, *(f"{value:.2f}" for value in measured), flush=True)
    print("| version | start | live s | first s | ready s | CPU s | PSS MB | threads |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (version, kind), starts in rows.items():
        live, first, ready, cpu, pss, threads = map(statistics.median, zip(*starts, strict=True))
        print(
            f"| {version} | {kind} | {live:.1f} | {first:.1f} | {ready:.1f} | {cpu:.1f} "
            f"| {pss:.0f} | {threads:.0f} |"
        )


if __name__ == "__main__":
    main()
