"""MLServer with a custom runtime, the V2 protocol and adaptive batching."""

import os

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Mnist(MLModel):
    """Classifies images of digits."""

    async def load(self) -> bool:
        """Load the network."""
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Classify a batch. MLServer merges the requests and splits the response."""
        images = NumpyCodec.decode_input(payload.inputs[0]).astype(np.uint8, copy=False)
        (probabilities,) = self.session.run(None, {"image": images})
        output = NumpyCodec.encode_output("probabilities", probabilities)
        return InferenceResponse(model_name=self.name, outputs=[output])
