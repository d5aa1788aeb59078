"""LitServe with dynamic batching and one inference worker, as in its documentation."""

import os
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
from numpy.typing import NDArray


class Mnist(litserve.LitAPI):
    """Classifies images of digits."""

    def setup(self, device: str) -> None:
        """Load the network."""
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def decode_request(self, request: dict[str, Any]) -> NDArray[np.uint8]:
        """Decode one image, uint8 [28, 28]."""
        return np.array(request["image"], np.uint8).reshape(28, 28)

    def predict(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of a batch. LitServe stacks the images and splits the rows."""
        return self.session.run(None, {"image": x})[0]

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, list[float]]:
        """Encode the probabilities of one image."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Mnist(max_batch_size=64, batch_timeout=0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
