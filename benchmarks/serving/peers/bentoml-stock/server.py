"""BentoML with adaptive batching of arrays, `batchable=True`, as in its documentation."""

import os

import bentoml
import numpy as np
import onnxruntime
from numpy.typing import NDArray


@bentoml.service(workers=1)
class Mnist:
    """Classifies images of digits."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )

    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=64, max_latency_ms=1000)
    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify uint8 images [N, 28, 28]."""
        images = images.astype(np.uint8, copy=False)
        return self.session.run(None, {"image": images})[0]
