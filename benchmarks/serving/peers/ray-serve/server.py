"""Ray Serve with request batching, `@serve.batch`, on one replica, as in its documentation."""

import sys

import numpy as np
import onnxruntime
import ray
from numpy.typing import NDArray
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=256, logging_config={"enable_access_log": False})
class Mnist:
    """Classifies images of digits."""

    def __init__(self, model: str) -> None:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def classify(self, images: list[NDArray[np.uint8]]) -> list[list[float]]:
        """Return the probabilities of each image, uint8 [28, 28]."""
        return self.session.run(None, {"image": np.stack(images)})[0].tolist()

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        """Classify the image of one request."""
        image = np.array((await request.json())["image"], np.uint8).reshape(28, 28)
        return {"probabilities": await self.classify(image)}


if __name__ == "__main__":
    port, model, folder = sys.argv[1:]
    ray.init(include_dashboard=False, _temp_dir=folder)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(port)},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    serve.run(Mnist.bind(model), route_prefix="/predict", blocking=True)
