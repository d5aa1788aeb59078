"""Tests of the distortions.

A distortion reads each output pixel at a position of the input. Two images with the column and the
row as pixel values show this position, because equal generators give equal distortions.
"""

import math

import pytest
import torch
from torch import Tensor

from training.augmentation import distortion
from training.datasets import Dataset
from training.hyperparameters import ImageHyperparameters

CPU = torch.device("cpu")
ROWS = 64
STRENGTHS = {"rotation": 30, "scaling": 0.2, "shear": 0.2, "translation": 3, "elastic": 34}
RESAMPLED = sorted(STRENGTHS.keys() - {"translation"})  # shifts alone are by whole pixels, so a few
CENTRE = slice(9, 19)  # no distortion below reads these pixels beyond the border


def hyperparameters(**strengths: float) -> ImageHyperparameters:
    return ImageHyperparameters(epochs=1, batch_size=1, optimizer="sgd", lr=1, **strengths)


def distorted(images: Tensor, seed: int = 0, **strengths: float) -> Tensor:
    distort = distortion(hyperparameters(**strengths), CPU)
    assert distort is not None
    return distort(images, torch.Generator().manual_seed(seed))


def positions(**strengths: float) -> tuple[Tensor, Tensor]:
    """Return the positions that the middle pixels are read at, columns and rows, [64, 10, 10]."""
    ramp = torch.arange(28.0).expand(ROWS, 28, 28)
    columns = distorted(ramp, **strengths) - 13.5
    rows = distorted(ramp.transpose(1, 2), **strengths) - 13.5
    return columns[:, CENTRE, CENTRE], rows[:, CENTRE, CENTRE]


def linear_maps(**strengths: float) -> Tensor:
    """Return the matrix [[xx, xy], [yx, yy]] of the position map of each image, [64, 2, 2]."""
    return torch.stack(
        [
            torch.stack(
                [
                    position.diff(dim=2).mean(dim=(1, 2)),
                    position.diff(dim=1).mean(dim=(1, 2)),
                ],
                dim=1,
            )
            for position in positions(**strengths)
        ],
        dim=1,
    )


def test_strengths_of_zero_give_no_distortion() -> None:
    assert distortion(hyperparameters(), CPU) is None


@pytest.mark.parametrize("name", RESAMPLED)
def test_each_strength_moves_pixels_deterministically_by_generator(
    name: str, digits: Dataset
) -> None:
    images = digits.train.inputs[:16]
    strength = {name: STRENGTHS[name]}
    first = distorted(images, seed=1, **strength)
    assert torch.equal(first, distorted(images, seed=1, **strength))
    assert not torch.equal(first, distorted(images, seed=2, **strength))
    assert bool(((first - images.float()).abs().amax(dim=(1, 2)) > 1).all())


@pytest.mark.parametrize("name", RESAMPLED)
def test_each_image_is_distorted_differently(name: str, digits: Dataset) -> None:
    same = digits.train.inputs[:1].expand(ROWS, 28, 28)
    result = distorted(same, **{name: STRENGTHS[name]}).flatten(1)
    assert len(result.unique(dim=0)) == ROWS


def test_shape_and_range_are_unchanged(digits: Dataset) -> None:
    images = digits.train.inputs[:200]
    before = images.clone()
    result = distorted(images, **STRENGTHS)
    assert (result.shape, result.dtype) == (images.shape, torch.float32)
    assert float(result.min()) >= 0
    assert float(result.max()) <= 255 + 1e-3
    assert torch.equal(images, before)


def test_translation_shifts_whole_images_by_at_most_its_pixels() -> None:
    columns, rows = positions(translation=3)
    middle = torch.arange(9.0, 19) - 13.5
    right, down = columns - middle, rows - middle.unsqueeze(1)
    for shift in (right, down):
        assert float((shift - shift[:, :1, :1]).abs().max()) < 1e-4
        assert float(shift.abs().max()) <= 3 + 1e-4
        assert float(shift.abs().max()) > 2.5
        assert float(shift.mean()) == pytest.approx(0, abs=0.7)


def test_shifts_alone_are_by_whole_pixels_and_blur_nothing(digits: Dataset) -> None:
    image = digits.train.inputs[:1]
    result = distorted(image.expand(ROWS, 28, 28), translation=2)
    shifted = {
        image.roll((down, right), (1, 2)).float().numpy().tobytes()
        for down in range(-2, 3)
        for right in range(-2, 3)
    }
    found = {one.round().numpy().tobytes() for one in result}
    torch.testing.assert_close(result, result.round(), atol=1e-2, rtol=0)
    assert found <= shifted
    assert len(found) > 20


def test_half_of_the_images_are_mirrored_exactly(digits: Dataset) -> None:
    image = digits.train.inputs[:1].float()
    result = distorted(image.expand(ROWS, 28, 28), mirror=True)
    as_before = (result - image).abs().amax(dim=(1, 2)) < 1e-2
    mirrored = (result - image.flip(2)).abs().amax(dim=(1, 2)) < 1e-2
    assert bool((as_before ^ mirrored).all())
    assert 16 < int(mirrored.sum()) < 48


def test_a_square_at_a_random_place_is_blackened(digits: Dataset) -> None:
    white = torch.full((ROWS, 28, 28), 255, dtype=torch.uint8)
    black = distorted(white, erase=8) == 0
    rows, columns = black.any(dim=2).sum(dim=1), black.any(dim=1).sum(dim=1)
    assert torch.equal(black.sum(dim=(1, 2)), rows * columns)  # a rectangle
    assert (int(rows.max()), int(columns.max())) == (8, 8)
    assert int(rows.min()) >= 4  # the centre is within the image
    assert len(black.flatten(1).unique(dim=0)) > ROWS / 2


def test_translation_shifts_a_digit_s_centre_of_mass_by_at_most_its_pixels(
    digits: Dataset,
) -> None:
    images = digits.train.inputs[:ROWS].float()
    result = distorted(images, translation=2)
    position = torch.arange(28.0)
    for axis in (1, 2):
        before = images.sum(dim=axis) @ position / images.sum(dim=(1, 2))
        after = result.sum(dim=axis) @ position / result.sum(dim=(1, 2))
        assert float((after - before).abs().max()) <= 2.01
        assert float((after - before).abs().max()) > 1


def test_rotation_rotates_about_the_centre_by_at_most_its_degrees() -> None:
    maps = linear_maps(rotation=30)
    identity = torch.eye(2).expand(ROWS, 2, 2)
    torch.testing.assert_close(maps @ maps.transpose(1, 2), identity, atol=1e-4, rtol=0)
    assert float(torch.det(maps).min()) > 0  # rotated, not mirrored
    angles = torch.atan2(maps[:, 1, 0], maps[:, 0, 0]) * 180 / math.pi
    assert float(angles.abs().max()) <= 30 + 0.01
    assert float(angles.abs().max()) > 25
    assert float(angles.min()) < 0 < float(angles.max())
    columns, rows = positions(rotation=30)
    assert float(columns.mean(dim=(1, 2)).abs().max()) < 1e-3
    assert float(rows.mean(dim=(1, 2)).abs().max()) < 1e-3


def test_rotation_keeps_a_digit_s_mass(digits: Dataset) -> None:
    images = digits.train.inputs[:ROWS].float()
    ratio = distorted(images, rotation=30).sum(dim=(1, 2)) / images.sum(dim=(1, 2))
    assert float((ratio - 1).abs().max()) < 0.05


def test_scaling_changes_only_width_and_height_by_at_most_its_share() -> None:
    maps = linear_maps(scaling=0.2)
    assert float(maps[:, 0, 1].abs().max()) < 1e-4
    assert float(maps[:, 1, 0].abs().max()) < 1e-4
    width, height = maps[:, 0, 0] - 1, maps[:, 1, 1] - 1
    for change in (width, height):
        assert float(change.abs().max()) <= 0.2 + 1e-4
        assert float(change.abs().max()) > 0.15
    assert not torch.allclose(width, height, atol=0.01)


def test_shear_moves_pixels_within_their_rows() -> None:
    maps = linear_maps(shear=0.2)
    upright = maps.clone()
    upright[:, 0, 1] = 0
    torch.testing.assert_close(upright, torch.eye(2).expand(ROWS, 2, 2), atol=1e-4, rtol=0)
    assert 0.15 < float(maps[:, 0, 1].abs().max()) <= 0.2 + 1e-4


def test_elastic_distortion_is_smooth_and_grows_with_its_strength() -> None:
    middle = torch.arange(9.0, 19) - 13.5

    def shifts(strength: float) -> Tensor:
        columns, rows = positions(elastic=strength)
        return torch.stack([columns - middle, rows - middle.unsqueeze(1)])

    weak, strong = shifts(10), shifts(30)
    assert 0.8 < float(strong.std()) < 1.8  # pixels: 30 / sqrt(3) x 0.07, the filter's gain
    torch.testing.assert_close(strong, weak * 3, atol=1e-3, rtol=1e-3)
    neighbours = strong.diff(dim=2).abs().mean() / strong.abs().mean()
    assert float(neighbours) < 0.35
    within = strong - strong.mean(dim=(2, 3), keepdim=True)
    assert float(within.std()) > 0.3  # not a constant shift
