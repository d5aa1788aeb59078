"""What one request costs, part by part: `python -m benchmarks.parts`.

One MNIST image as V2 JSON for `mnist-mlp`, through the front and all that stands behind it, in one
process and with no HTTP server before it. Each part is called alone, in a loop; the whole is called
with 1, 16 and 64 requests at once. CPU microseconds of the whole process for each request, the
median of the rounds, lowest and highest in brackets.
"""

import asyncio
import inspect
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response
from starlette.types import Message

from service.body import read_body
from service.catalog import Catalog
from service.departures import Departures
from service.exchange import begin
from service.front import Front
from service.metrics import count_request
from service.open_inference.codec import decode, encode
from service.open_inference.routes import OpenInference
from service.settings import Settings

ROUNDS, CALLS = 9, 2_000
MODEL = "mnist-mlp"


async def measure(call: Callable[[], Any], calls: int = CALLS) -> list[float]:
    """CPU seconds of one call, in each round."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(calls):
            result = call()
            if inspect.isawaitable(result):
                await result
        rounds.append((time.process_time() - started) / calls)
    return rounds


def show(part: str, rounds: list[float], each: int = 1) -> None:
    """One line of the table."""
    middle, low, high = (f(rounds) * 1e6 / each for f in (statistics.median, min, max))
    print(f"| {part} | {middle:.1f} | {low:.1f} - {high:.1f} |")


async def main() -> None:
    """Measure and print."""
    settings = Settings()
    catalog = Catalog(settings)
    await catalog.open()
    predictor = catalog[MODEL]
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28), np.uint8)
    tensor = {"name": "image", "shape": [1, 28, 28], "datatype": "UINT8"}
    body = orjson.dumps({"inputs": [{**tensor, "data": image.ravel().tolist()}]})
    headers = {b"content-length": b"%d" % len(body), b"content-type": b"application/json"}

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(_: Message) -> None:
        pass

    protocol = OpenInference()
    protocol.catalog = catalog
    front = Front(protocol, protocol, settings)
    scope = {
        "type": "http", "method": "POST", "path": f"/v2/models/{MODEL}/infer",
        "headers": list(headers.items()),
    }  # fmt: skip

    request = decode(predictor.card, body, None)
    answer = await predictor.predict(request.inputs)
    exchange = begin("POST", scope["path"], headers)
    departures = Departures()

    def enter_and_leave() -> None:
        begin("POST", scope["path"], headers)
        departures.leave(departures.enter(exchange))

    async def respond() -> None:
        content, _ = encode(predictor.card, request, answer.outputs)
        response = Response(content, 200, {"X-Request-Id": "1"}, "application/json")
        await response(scope, receive, send)

    print("| part | CPU µs | lowest - highest |\n| --- | --- | --- |")
    show("begin the exchange, watch its caller", await measure(enter_and_leave))
    show("read the body", await measure(lambda: read_body(headers, receive, settings)))
    show("decode: JSON to tensors", await measure(lambda: decode(predictor.card, body, None)))
    show("encode and send: tensors to JSON", await measure(respond))
    show("count it", await measure(lambda: count_request(exchange)))
    for rows in (1, 16, 64):
        batch = {"image": np.repeat(image, rows, axis=0)}
        rounds = await measure(partial(predictor.placement.runtime, batch), CALLS // rows)
        show(f"the network alone, batch of {rows}, each row", rounds, rows)
    for together in (1, 16, 64):

        async def ask(together: int = together) -> None:
            await asyncio.gather(*(front(scope, receive, send) for _ in range(together)))

        rounds = await measure(ask, CALLS // together)
        show(f"the whole, {together} at once, each", rounds, together)
    await catalog.close()


if __name__ == "__main__":
    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop

        uvloop.run(main())
