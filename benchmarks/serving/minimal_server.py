"""A minimal Python server: `python -m benchmarks.serving.minimal_server PORT`.

The server consists of uvloop, httptools, orjson and ONNX Runtime. The requests of one iteration of
the event loop form a batch, and the loop never sleeps. The server validates no input, has no limits
and no metrics; an invalid request ends the connection or the process. The server is an upper bound
of the throughput, and not for use.
"""

import asyncio
import gc
import sys
from typing import Any, cast

import httptools
import numpy as np
import orjson
import uvloop
from numpy.typing import NDArray

from benchmarks.serving.payloads import PACKAGE, in_process

network = in_process("onnx")
waiting: list[tuple["Connection", NDArray[np.uint8]]] = []


class Connection(asyncio.Protocol):
    """A connection that handles every POST as a prediction in V2 JSON."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Create the parser."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Append to the body."""
        self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        """Parse the request and schedule the batch; a GET is answered immediately."""
        body, self._body = self._body, b""
        if not body:
            self.reply(b"{}")
            return
        (tensor,) = orjson.loads(body)["inputs"]
        if not waiting:
            asyncio.get_running_loop().call_soon(compute_batch)
        image = np.frombuffer(bytearray(tensor["data"]), np.uint8).reshape(tensor["shape"])
        waiting.append((self, image))

    def reply(self, body: bytes) -> None:
        """Write a response."""
        header = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(header % len(body) + body)


def compute_batch() -> None:
    """Compute the waiting requests as one batch and respond."""
    batch = waiting[:]
    waiting.clear()
    probabilities = network({"image": np.concatenate([image for _, image in batch])})[
        "probabilities"
    ]
    for index, (connection, _) in enumerate(batch):
        row = probabilities[index : index + 1]
        output: dict[str, Any] = {"name": "probabilities", "datatype": "FP32", "shape": row.shape}
        output["data"] = row.ravel()
        content = {"model_name": PACKAGE.card.name, "outputs": [output]}
        connection.reply(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))


def stay_awake() -> None:
    """Schedule a call in each iteration, so that the event loop never sleeps."""
    asyncio.get_running_loop().call_soon(stay_awake)


async def main(port: int) -> None:
    """Serve until the process ends."""
    stay_awake()
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    gc.collect()
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
