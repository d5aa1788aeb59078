"""Whether a start beside busy programs makes a server slower: `python -m benchmarks.starts`.

A server chooses runtimes and batch sizes by timings. It is started in turns on a quiet machine and
beside as many busy processes as there are cores, which end once it is ready. Then its rate is
measured, and that of a server which has been up since the beginning, for the ratio of the two: the
speed of the machine differs from minute to minute. No start knows the timings of another.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from benchmarks.serving.load import wrk
from benchmarks.serving.payloads import images
from benchmarks.serving.processes import Running, running
from benchmarks.serving.servers import FITSERVE

ROW = FITSERVE.rows[0]
CONNECTIONS = 16
MODELS = ("mnist-mlp", "mnist-cnn")


class Rates(NamedTuple):
    """The responses per second of a server, and of the first one in the same seconds."""

    own: float
    first: float


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` cores busy."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def rate(server: Running, model: str, seconds: float) -> float:
    """Return the responses per second of a model."""
    bodies = [ROW.payload_format.body(images(16)[[index]]) for index in range(16)]
    load = wrk(
        f"{server.url}/v2/models/{model}/infer", bodies, ROW.payload_format.headers,
        connections=CONNECTIONS, seconds=seconds,
    )  # fmt: skip
    if load.errors:
        raise SystemExit(f"error: {model} answered with errors: {dict(load.errors)}")
    return load.requests_per_second


def measure(server: Running, first: Running, model: str, seconds: float) -> Rates:
    """Return the rates of a server and of the first one, in turns."""
    rate(server, model, 1)  # warm
    own, others = [], []
    for _ in range(3):
        others.append(rate(first, model, seconds))
        own.append(rate(server, model, seconds))
    return Rates(statistics.median(own), statistics.median(others))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starts", description=__doc__)
    parser.add_argument("--starts", type=int, default=10, help="of each kind (default: 10)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a measurement (default: 1)")
    options = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    ratios: dict[tuple[str, str], list[float]] = {}
    settings = {"FITSERVE_TIMINGS_FOLDER": "off"}
    with running(FITSERVE, settings=settings) as first:
        for _ in range(options.starts):
            for kind, count in (("quiet", 0), ("busy", cores)):
                with ExitStack() as stack:
                    with busy_processes(count):
                        server = stack.enter_context(running(FITSERVE, settings=settings))
                    for model in MODELS:
                        rates = measure(server, first, model, options.seconds)
                        ratios.setdefault((model, kind), []).append(rates.own / rates.first)
                        print(f"{kind} {model}: {rates.own:.0f} of {rates.first:.0f}", flush=True)
    print("\n| model | start | lowest | median | highest | lowest of all / highest of all |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (model, kind), found in ratios.items():
        ratios_of_model = ratios[model, "quiet"] + ratios[model, "busy"]
        print(
            f"| {model} | {kind} | {min(found):.2f} | {statistics.median(found):.2f} "
            f"| {max(found):.2f} | {min(ratios_of_model) / max(ratios_of_model):.2f} |"
        )


if __name__ == "__main__":
    main()
