"""mosec: a front in Rust that collects batches for Python workers.

`server.py WORKERS [OPTIONS OF MOSEC]` has a path for each size of a batch, `/8` and `/32`, with
workers of its own: a batch that is not full waits for 1 ms, the shortest wait of mosec, so that the
fastest size depends on the number of connections.
"""

import os
import sys

import mosec
import numpy as np
import onnxruntime
import orjson


class Mnist(mosec.Worker):
    """Classifies images of digits."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def deserialize(self, data: bytes) -> list[int]:
        """Decode one request."""
        return orjson.loads(data)["image"]

    def forward(self, data: list[list[int]]) -> list[list[float]]:
        """Return the probabilities of a batch."""
        images = np.array(data, np.uint8).reshape(-1, 28, 28)
        return self.session.run(None, {"image": images})[0].tolist()

    def serialize(self, data: list[float]) -> bytes:
        """Encode one response."""
        return orjson.dumps({"probabilities": data})


if __name__ == "__main__":
    server = mosec.Server()
    for size in (8, 32):
        server.append_worker(
            Mnist, num=int(sys.argv[1]), max_batch_size=size, max_wait_time=1, route=f"/{size}"
        )
    server.run()
