"""The least that a server in Python does: `python -m benchmarks.serving.least PORT`.

uvloop, httptools, orjson and ONNX Runtime, with nothing between them. What comes in one turn of the
event loop is one batch, and the loop never sleeps. It looks at nothing that it is sent, bounds
nothing and counts nothing, and what is wrong ends a connection or the process: it shows what a
server could win that promises nothing, and serves nobody.
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

from benchmarks.serving.work import PACKAGE, in_process

network = in_process("onnx")
waiting: list[tuple["Connection", NDArray[np.uint8]]] = []


class Connection(asyncio.Protocol):
    """Takes every request for a prediction in V2 JSON."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        """Read a request, and see to it that a batch is computed; a GET is answered at once."""
        body, self._body = self._body, b""
        if not body:
            self.reply(b"{}")
            return
        (tensor,) = orjson.loads(body)["inputs"]
        if not waiting:
            asyncio.get_running_loop().call_soon(answer)
        image = np.frombuffer(bytearray(tensor["data"]), np.uint8).reshape(tensor["shape"])
        waiting.append((self, image))

    def reply(self, body: bytes) -> None:
        """Write an answer."""
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


def answer() -> None:
    """Compute all that waits, and answer it."""
    batch = waiting[:]
    waiting.clear()
    found = network({"image": np.concatenate([image for _, image in batch])})["probabilities"]
    for index, (connection, _) in enumerate(batch):
        row = found[index : index + 1]
        output: dict[str, Any] = {"name": "probabilities", "datatype": "FP32", "shape": row.shape}
        output["data"] = row.ravel()
        content = {"model_name": PACKAGE.card.name, "outputs": [output]}
        connection.reply(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))


def stay_awake() -> None:
    """Keep the event loop from sleeping, ever: it has this to call in each turn."""
    asyncio.get_running_loop().call_soon(stay_awake)


async def main(port: int) -> None:
    """Serve until the end."""
    stay_awake()
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    gc.collect()
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
