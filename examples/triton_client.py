"""Ask the service with Triton's own client: `pip install tritonclient[http]`."""

import os

import numpy as np
import tritonclient.http as triton

ADDRESS = os.environ.get("FITSERVE_URL", "http://127.0.0.1:3000").removeprefix("http://")

client = triton.InferenceServerClient(ADDRESS)
image = triton.InferInput("image", [1, 28, 28], "UINT8")
image.set_data_from_numpy(np.zeros((1, 28, 28), np.uint8))

probabilities = client.infer("mnist-mlp", [image]).as_numpy("probabilities")
print("probabilities:", probabilities.round(4).tolist())

# The extension `classification`: the most probable classes with their labels.
best = triton.InferRequestedOutput("probabilities", class_count=3)
classes = client.infer("mnist-mlp", [image], outputs=[best]).as_numpy("probabilities")
print("best classes: ", [text.decode() for text in classes.ravel()])
