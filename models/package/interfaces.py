"""The inputs of the typed endpoints: an image, an x, a point in the plane."""

from models.kinds.tensor_spec import TensorSpec

IMAGE = TensorSpec(
    name="image", datatype="UINT8", shape=(-1, 28, 28), minimum=0, maximum=255,
    meaning="grey pixels, white ink on black, framed as MNIST frames a digit",
)  # fmt: skip
X = TensorSpec(
    name="x", datatype="FP32", shape=(-1, 1),
    meaning="where to evaluate the curve; outside the range it extrapolates",
)  # fmt: skip
"""A card adds the range of its training data."""
POINT = TensorSpec(name="point", datatype="FP32", shape=(-1, 2), meaning="coordinates in the plane")
