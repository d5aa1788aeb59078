"""TorchServe with a handler for batches of JSON bodies."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler


class Mnist(BaseHandler):
    """Classifies images of digits. TorchServe collects the batch."""

    def initialize(self, context: Context) -> None:
        """Load the network."""
        folder = context.system_properties["model_dir"]
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.initialized = True

    def preprocess(self, data: list[dict[str, dict[str, list[int]]]]) -> NDArray[np.uint8]:
        """Read the images of a batch, uint8 [N, 28, 28]."""
        images = [row["body"]["image"] for row in data]
        return np.array(images, np.uint8).reshape(-1, 28, 28)

    def inference(self, data: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of a batch."""
        return self.session.run(None, {"image": data})[0]

    def postprocess(self, inference_output: NDArray[np.float32]) -> list[dict[str, list[float]]]:
        """Return the response to each request."""
        return [{"probabilities": row.tolist()} for row in inference_output]
