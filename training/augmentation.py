"""Random distortions of 28x28 images, computed for a batch on its own device.

The distortions are affine and elastic, after Simard, Steinkraus and Platt, "Best practices for
convolutional neural networks applied to visual document analysis" (2003). The elastic distortion
is a field of random shifts, smoothed with a Gaussian of 4 pixels. Erased squares are those of
DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout" (2017).
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
    resampled = (
        hyperparameters.rotation,
        hyperparameters.scaling,
        hyperparameters.shear,
        hyperparameters.elastic,
    )
    moved = (hyperparameters.translation, hyperparameters.mirror, hyperparameters.erase)
    if not any((*resampled, *moved)):
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

        def shift() -> Tensor:
            if any(resampled):
                return uniform(hyperparameters.translation / half)
            # A shift by a part of a pixel would blur images that nothing else does.
            return uniform(hyperparameters.translation + 0.5).round() / half

        angle = uniform(math.radians(hyperparameters.rotation))
        width, height = 1 + uniform(hyperparameters.scaling), 1 + uniform(hyperparameters.scaling)
        if hyperparameters.mirror:
            width = width * uniform(1).sign()
        shear = uniform(hyperparameters.shear)
        right, down = shift(), shift()
        cosine, sine = angle.cos(), angle.sin()
        matrices = torch.stack(
            [cosine * width, shear - sine * height, right, sine * width, cosine * height, down],
            dim=1,
        ).view(rows, 2, 3)
        grid = affine_grid(matrices, [rows, 1, SIDE, SIDE], align_corners=False)
        if hyperparameters.elastic:
            field = smooth @ uniform(hyperparameters.elastic / half, 2, SIDE, SIDE) @ smooth.T
            grid = grid + field.permute(0, 2, 3, 1)
        images = grid_sample(images.float().unsqueeze(1), grid, align_corners=False).squeeze(1)
        if hyperparameters.erase:
            centre = uniform(half, 2, 1) + half
            is_near = (position + 0.5 - centre).abs() < hyperparameters.erase / 2
            images = images.masked_fill(is_near[:, 0, :, None] & is_near[:, 1, None, :], 0)
        return images

    return distort
