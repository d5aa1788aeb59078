"""The model of Triton's Python backend, which collects the batch."""

import os
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """Classifies images of digits."""

    def initialize(self, _: dict[str, str]) -> None:
        """Load the network."""
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Compute the images of all requests at once, and return the rows of each request."""
        images = [
            triton.get_input_tensor_by_name(request, "image").as_numpy() for request in requests
        ]
        (probabilities,) = self.session.run(None, {"image": np.concatenate(images)})
        ends = np.cumsum([len(array) for array in images])[:-1]
        return [
            triton.InferenceResponse([triton.Tensor("probabilities", rows)])
            for rows in np.split(probabilities, ends)
        ]
