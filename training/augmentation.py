"""Random distortions of digit images, computed for a batch on its own device.

The distortions are affine and elastic, after Simard, Steinkraus and Platt, "Best practices for
convolutional neural networks applied to visual document analysis" (2003). The elastic distortion
is a field of random shifts, smoothed with a Gaussian of 4 pixels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from training.hyperparameters import ImageHyperparameters

SIDE = 28
ELASTIC_SIGMA = 4.0

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def distortion(hyperparameters: ImageHyperparameters, device: torch.device) -> Augmentation | None:
    """Return the distortion for these hyperparameters, or None if all strengths are 0.

    The distortion takes images [N, 28, 28], 0 to 255, and a generator on the same device. It
    returns float32 [N, 28, 28] in the same range.
    """
    strengths = (
        hyperparameters.rotation,
        hyperparameters.scaling,
        hyperparameters.shear,
        hyperparameters.translation,
        hyperparameters.elastic,
    )
    if not any(strengths):
        return None
    half = SIDE / 2  # grid coordinates run from -1 to 1
    position = torch.arange(float(SIDE), device=device)
    smooth = torch.exp(-((position[:, None] - position) ** 2) / (2 * ELASTIC_SIGMA**2))
    smooth /= smooth.sum(dim=1, keepdim=True)

    def distort(images: Tensor, generator: torch.Generator) -> Tensor:
        rows = len(images)

        def uniform(limit: float, *shape: int) -> Tensor:
            draw = torch.rand(rows, *shape, generator=generator, device=device)
            return (draw * 2 - 1) * limit

        angle = uniform(math.radians(hyperparameters.rotation))
        width, height = 1 + uniform(hyperparameters.scaling), 1 + uniform(hyperparameters.scaling)
        shear = uniform(hyperparameters.shear)
        right, down = (
            uniform(hyperparameters.translation / half),
            uniform(hyperparameters.translation / half),
        )
        cosine, sine = angle.cos(), angle.sin()
        matrices = torch.stack(
            [cosine * width, shear - sine * height, right, sine * width, cosine * height, down],
            dim=1,
        ).view(rows, 2, 3)
        grid = affine_grid(matrices, [rows, 1, SIDE, SIDE], align_corners=False)
        if hyperparameters.elastic:
            field = smooth @ uniform(hyperparameters.elastic / half, 2, SIDE, SIDE) @ smooth.T
            grid = grid + field.permute(0, 2, 3, 1)
        return grid_sample(images.float().unsqueeze(1), grid, align_corners=False).squeeze(1)

    return distort
