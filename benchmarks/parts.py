"""What one request costs, part by part: `python -m benchmarks.parts`.

One MNIST image as V2 JSON for `mnist-mlp`, from the bytes that a connection brings to those that it
is given, in one process and with no network between. Each part is called alone, in a loop; the
whole with 1, 16 and 64 connections at once. CPU microseconds of the whole process for each request:
the median of the rounds, the lowest and the highest.
"""

import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import numpy as np
from uvicorn import Config
from uvicorn.server import ServerState

from benchmarks.serving.work import V2_JSON, images
from service.batching.batch import Answer, Arrays
from service.batching.batcher import MicroBatcher
from service.catalog import Catalog
from service.errors import ServiceError
from service.http.endpoint import Reply
from service.http.exchange import Exchange, begin
from service.http.front import Front
from service.http.short_way import ShortWay
from service.open_inference.codec import decode, encode
from service.open_inference.routes import OpenInference
from service.settings import Settings
from service.telemetry.metrics import count_request

ROUNDS, CALLS = 9, 3_200
MODEL = "mnist-mlp"
PATH = f"/v2/models/{MODEL}/infer"
SERVER = ServerState()
NOBODY = "/http"  # where nothing is done, so that what is left is HTTP


class Wire(asyncio.Transport):
    """A connection's other end, which forgets what it is given."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known of it."""
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """An answer."""

    def is_closing(self) -> bool:
        """It stays open."""
        return False

    def close(self) -> None:
        """An idle connection is closed after a while."""


def connect(front: Front) -> ShortWay:
    """A connection of which the front answers the requests."""
    config = Config(front, log_config=None)
    config.load()
    ShortWay.front = front
    connection = ShortWay(config, SERVER, {})
    connection.connection_made(Wire())
    return connection


def answer_at_once(
    exchange: Exchange, _: bytes, reply: Callable[[Reply], None]
) -> Callable[[], None]:
    """A responder that does nothing."""
    reply(Reply(exchange, b"{}"))
    return lambda: None


async def repeat(call: Callable[[], Any]) -> None:
    """Call it for one round."""
    for _ in range(CALLS):
        call()


async def show(part: str, one_round: Callable[[], Awaitable[None]], calls: int = CALLS) -> None:
    """One line of the table. A round is so many calls; the first is not counted."""
    micros = []
    for _ in range(ROUNDS + 1):
        started = time.process_time()
        await one_round()
        micros.append((time.process_time() - started) / calls * 1e6)
    middle = statistics.median(micros[1:])
    print(f"| {part} | {middle:.1f} | {min(micros[1:]):.1f} - {max(micros[1:]):.1f} |")


class Countdown:
    """A round's calls, of which each begins the next, until so many were begun and answered."""

    def __init__(self, together: int) -> None:
        self._to_begin = CALLS - together
        self._to_answer = CALLS
        self.over = asyncio.Event()

    def answered(self) -> bool:
        """Count an answer; whether another call is to begin."""
        self._to_answer -= 1
        if not self._to_answer:
            self.over.set()
        self._to_begin -= 1
        return self._to_begin >= 0


async def show_batcher(together: int) -> None:
    """The batcher around a model that takes no time, with so many callers at once."""
    inputs = {"image": np.zeros((1, 28, 28), np.uint8)}
    outputs = np.zeros((together, 10), np.float32)
    calls = Countdown(together)

    def compute(batch: Arrays) -> Arrays:
        return {"probabilities": outputs[: len(batch["image"])]}

    def done(_: Answer | ServiceError) -> None:
        if calls.answered():
            batcher.enqueue(inputs, done, timeout=30.0)

    batcher = MicroBatcher(
        compute, max_batch_rows=together, max_queue_rows=1_000, inline_rows=together, name="parts"
    )

    async def one_round() -> None:
        nonlocal calls
        calls = Countdown(together)
        for _ in range(together):
            batcher.enqueue(inputs, done, timeout=30.0)
        await calls.over.wait()

    await show(f"queue, gather, hand out: {together} at once", one_round)
    await batcher.close()


async def show_whole(front: Front, message: bytes, together: int) -> None:
    """Everything, with so many connections that each send when the last answer is there."""
    calls = Countdown(together)
    connections = [connect(front) for _ in range(together)]
    loop = asyncio.get_running_loop()

    class Asking(Wire):
        def __init__(self, connection: ShortWay) -> None:
            self.connection = connection

        def write(self, data: bytes | bytearray | memoryview) -> None:
            if calls.answered():
                loop.call_soon(self.connection.data_received, message)

    for connection in connections:
        connection.transport = Asking(connection)

    async def one_round() -> None:
        nonlocal calls
        calls = Countdown(together)
        for connection in connections:
            connection.data_received(message)
        await calls.over.wait()

    await show(f"the whole: {together} at once", one_round)


async def main() -> None:
    """Measure and print."""
    settings = Settings()
    catalog = Catalog(settings)
    await catalog.open()
    predictor = catalog[MODEL]
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
    to_nobody = b"POST " + NOBODY.encode() + rest

    protocol = OpenInference()
    protocol.catalog = catalog
    front = Front(protocol, protocol, settings, {NOBODY: answer_at_once})

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as in the service

    request = decode(predictor.card, body, None)
    outputs = (await predictor.predict(request.inputs)).outputs
    exchange = begin("POST", PATH, headers)
    exchange.endpoint, exchange.model = "/v2/models/{model}/infer", MODEL
    exchange.status = 200

    print("| part | CPU µs | lowest - highest |\n| --- | --- | --- |")
    connection = connect(front)
    await show(
        "HTTP: parse, choose, write", lambda: repeat(lambda: connection.data_received(to_nobody))
    )
    await show("of it: count", lambda: repeat(lambda: count_request(exchange)))
    await show(
        "decode: JSON to tensors", lambda: repeat(lambda: decode(predictor.card, body, None))
    )
    await show(
        "encode: tensors to JSON", lambda: repeat(lambda: encode(predictor.card, request, outputs))
    )
    for together in (1, 16, 64):
        await show_batcher(together)
    for rows in (1, 16, 64):
        compute = partial(predictor.placement.runtime, {"image": np.repeat(image, rows, axis=0)})
        one_round = partial(repeat, compute)
        await show(f"the network: {rows} rows, each", one_round, CALLS * rows)
    for together in (1, 16, 64):
        await show_whole(front, message, together)
    await catalog.close()


if __name__ == "__main__":
    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop

        uvloop.run(main())
