"""CPU time of the stages of one request: `python -m benchmarks.microbenchmarks`.

The request has one MNIST image as V2 JSON for `mnist-mlp`, and is computed from received bytes to
sent bytes, in one process and without a network. Each stage is called alone, in a loop, and the
complete request with 1, 16 and 64 concurrent connections. The unit is CPU microseconds of the
process per request: the median, the lowest and the highest of the rounds.
"""

import asyncio
import gc
import statistics
import sys
import time
from asyncio import Future
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import numpy as np
from uvicorn import Config
from uvicorn.server import ServerState

from benchmarks.serving.payloads import V2_JSON, images
from service.api.state import ServiceState
from service.api.v2.codec import decode, encode
from service.api.v2.routes import OpenInference
from service.batching.batch import Arrays, InferenceResponse
from service.batching.batcher import MicroBatcher
from service.errors import ServiceError
from service.http.app import App
from service.http.responses import Reply
from service.inference.registry import ModelRegistry
from service.json_body import Body
from service.settings import Settings
from service.telemetry.metrics import count_request
from service.telemetry.request_context import RequestContext, start_request
from service.transport.fast_path import FastPath

ROUNDS, CALLS = 9, 3_200
MODEL = "mnist-mlp"
PATH = f"/v2/models/{MODEL}/infer"
SERVER = ServerState()
NOOP_PATH = "/http"  # its responder does nothing, which leaves the time of HTTP


class NullTransport(asyncio.Transport):
    """A transport that discards everything."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the default."""
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Discard a response."""

    def get_write_buffer_size(self) -> int:
        """Return 0."""
        return 0

    def is_closing(self) -> bool:
        """Return False."""
        return False

    def close(self) -> None:
        """Ignore the close of an idle connection."""


def connect(app: App) -> FastPath:
    """Return a connection that passes its requests to `app`."""
    config = Config(app, log_config=None)
    config.load()
    FastPath.application = app
    connection = FastPath(config, SERVER, {})
    connection.connection_made(NullTransport())
    return connection


def respond_immediately(
    context: RequestContext, _: Body, reply: Callable[[Reply], None]
) -> Future[None]:
    """Respond immediately with an empty object."""
    reply(Reply(context, b"{}"))
    return Future()


async def repeat(call: Callable[[], Any]) -> None:
    """Call `call` for one round."""
    for _ in range(CALLS):
        call()


async def show(stage: str, one_round: Callable[[], Awaitable[None]], calls: int = CALLS) -> None:
    """Print a row of the table. A round has `calls` calls; the first round is not counted."""
    micros = []
    for _ in range(ROUNDS + 1):
        started = time.process_time()
        await one_round()
        micros.append((time.process_time() - started) / calls * 1e6)
    middle = statistics.median(micros[1:])
    print(f"| {stage} | {middle:.1f} | {min(micros[1:]):.1f} - {max(micros[1:]):.1f} |")


class Countdown:
    """The counters of a round in which each response starts the next call."""

    def __init__(self, concurrency: int) -> None:
        self._to_start = CALLS - concurrency
        self._to_finish = CALLS
        self.finished = asyncio.Event()

    def finish(self) -> bool:
        """Count a response and return whether to start another call."""
        self._to_finish -= 1
        if not self._to_finish:
            self.finished.set()
        self._to_start -= 1
        return self._to_start >= 0


async def show_batcher(concurrency: int) -> None:
    """Measure the batcher with concurrent callers and a model that takes no time."""
    inputs = {"image": np.zeros((1, 28, 28), np.uint8)}
    outputs = np.zeros((concurrency, 10), np.float32)
    calls = Countdown(concurrency)

    def compute(batch: Arrays) -> Arrays:
        return {"probabilities": outputs[: len(batch["image"])]}

    def done(_: InferenceResponse | ServiceError) -> None:
        if calls.finish():
            batcher.enqueue(inputs, done, timeout=30.0)

    batcher = MicroBatcher(
        compute,
        max_batch_rows=concurrency,
        max_queue_rows=1_000,
        inline_rows=concurrency,
        name="microbenchmarks",
    )

    async def one_round() -> None:
        nonlocal calls
        calls = Countdown(concurrency)
        for _ in range(concurrency):
            batcher.enqueue(inputs, done, timeout=30.0)
        await calls.finished.wait()

    await show(f"queue, concatenate, unbatch: {concurrency} concurrent", one_round)
    await batcher.close()


async def show_request(app: App, message: bytes, concurrency: int) -> None:
    """Measure complete requests on concurrent connections with one request at a time."""
    calls = Countdown(concurrency)
    connections = [connect(app) for _ in range(concurrency)]
    loop = asyncio.get_running_loop()

    class RepeatingTransport(NullTransport):
        def __init__(self, connection: FastPath) -> None:
            self.connection = connection

        def write(self, data: bytes | bytearray | memoryview) -> None:
            if calls.finish():
                loop.call_soon(self.connection.data_received, message)

    for connection in connections:
        connection.transport = RepeatingTransport(connection)

    async def one_round() -> None:
        nonlocal calls
        calls = Countdown(concurrency)
        for connection in connections:
            connection.data_received(message)
        await calls.finished.wait()

    await show(f"complete request: {concurrency} concurrent", one_round)


async def main() -> None:
    """Run the benchmark and print the table."""
    settings = Settings()
    registry = ModelRegistry(settings)
    await registry.open()
    predictor = registry[MODEL]
    image = images(1)
    body = V2_JSON.body(image)
    headers = {
        b"host": b"127.0.0.1:3000",
        b"content-length": b"%d" % len(body),
        b"content-type": b"application/json",
    }
    lines = b"".join(b"%b: %b\r\n" % header for header in headers.items())
    rest = b" HTTP/1.1\r\n%b\r\n%b" % (lines, body)
    message = b"POST " + PATH.encode() + rest
    noop_message = b"POST " + NOOP_PATH.encode() + rest

    protocol = OpenInference(ServiceState(registry))
    app = App(protocol, settings, mounts=[protocol], typed={NOOP_PATH: respond_immediately})

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as in the service

    request = decode(predictor.card, body, None)
    outputs = (await predictor.predict(request.inputs)).outputs
    context = start_request("POST", PATH, headers)
    context.endpoint, context.model = "/v2/models/{model}/infer", MODEL
    context.status = 200

    print("| stage | CPU µs | lowest - highest |\n| --- | --- | --- |")
    connection = connect(app)
    await show(
        "HTTP: parse, route, write", lambda: repeat(lambda: connection.data_received(noop_message))
    )
    await show("HTTP: count metrics", lambda: repeat(lambda: count_request(context)))
    await show(
        "decode: JSON to tensors", lambda: repeat(lambda: decode(predictor.card, body, None))
    )
    await show(
        "encode: tensors to JSON", lambda: repeat(lambda: encode(predictor.card, request, outputs))
    )
    for concurrency in (1, 16, 64):
        await show_batcher(concurrency)
    for rows in (1, 16, 64):
        compute = partial(predictor.placement.runtime, {"image": np.repeat(image, rows, axis=0)})
        one_round = partial(repeat, compute)
        await show(f"network: {rows} rows, per row", one_round, CALLS * rows)
    for concurrency in (1, 16, 64):
        await show_request(app, message, concurrency)
    await registry.close()


if __name__ == "__main__":
    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop

        uvloop.run(main())
