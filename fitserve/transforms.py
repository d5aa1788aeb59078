"""The steps before networks for pictures, as torchvision, timm and Transformers state them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fitserve.doors import is_of
from fitserve.exported import ExportError

_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""The names of Pillow's numbers, which the configurations of Transformers hold."""
_TIMM_CROP = 0.875
"""The share of the resized picture that timm cuts out where a model states none."""
_SIZES = ((300, 400), (640, 480), (224, 224), (150, 90), (501, 333))
"""The widths and heights of our own pictures."""


def stated_steps(source: Any) -> dict[str, Any]:
    """Return the arguments of `fitserve.Picture` for what a library states.

    Args:
        source: torchvision's `weights.transforms()`, a model of timm or its `pretrained_cfg`, or an
            image processor of Transformers.

    Raises:
        ExportError: the source states no steps that are known.
    """
    if hasattr(source, "crop_size") and hasattr(source, "resize_size"):
        return _of_torchvision(source)
    if hasattr(source, "image_mean") and hasattr(source, "do_resize"):
        return _of_transformers(source)
    stated = getattr(source, "pretrained_cfg", source)
    if isinstance(stated, Mapping) and "input_size" in stated:
        return _of_timm(stated)
    raise ExportError(
        f"a {type(source).__name__} states no steps for pictures: give "
        "fitserve.Picture(size=…, resize=…, mean=…, std=…)"
    )


def transform_of(source: Any) -> Callable[[Any], Any] | None:
    """Return the library's own transform, for the comparison with the declared steps.

    Returns:
        A function from a picture of Pillow to an array [channels, height, width]; None if the
        source has none.
    """
    if hasattr(source, "crop_size") and hasattr(source, "resize_size"):
        return lambda image: source(image.convert("RGB"))
    if hasattr(source, "image_mean") and hasattr(source, "do_resize"):
        return lambda image: source(image.convert("RGB"), return_tensors="np")["pixel_values"][0]
    stated = getattr(source, "pretrained_cfg", source)
    if not (isinstance(stated, Mapping) and "input_size" in stated):
        return None
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config(pretrained_cfg=dict(stated)))
    mode = "L" if stated["input_size"][0] == 1 else "RGB"
    return lambda image: transform(image.convert(mode))


def sample_pictures() -> list[Any]:
    """Return pictures of several sizes, the same on every call, for the comparison."""
    from PIL import Image

    random = np.random.default_rng(0)
    small = [Image.fromarray(random.integers(0, 256, (9, 7, 3), np.uint8)) for _ in _SIZES]
    bicubic = Image.Resampling.BICUBIC
    return [image.resize(size, bicubic) for image, size in zip(small, _SIZES, strict=True)]


def is_timm(network: object) -> bool:
    """Return whether a network is a model of timm, which states its steps."""
    return is_of(network, "torch", "Module") and isinstance(
        getattr(network, "pretrained_cfg", None), Mapping
    )


def _of_torchvision(source: Any) -> dict[str, Any]:
    (size,), (resize,) = source.crop_size, source.resize_size
    return {
        "size": size,
        "resize": resize,
        "interpolation": source.interpolation.value,
        "mean": tuple(source.mean),
        "std": tuple(source.std),
    }


def _of_timm(stated: Mapping[str, Any]) -> dict[str, Any]:
    channels, height, width = stated["input_size"]
    share = stated.get("crop_pct") or _TIMM_CROP
    mode = stated.get("crop_mode") or "center"
    resize: int | None = int(min(height, width) / share)
    if mode == "squash" and share == 1:
        resize = None
    elif mode != "center" or height != width:
        raise ExportError(
            f"the model resizes pictures to {height} x {width} with crop_mode={mode!r} and "
            f"crop_pct={share:g}, which the service does not: set crop_mode='center' and one size "
            "in its pretrained_cfg, or give fitserve.Picture(size=…)"
        )
    return {
        "size": (height, width),
        "resize": resize,
        "interpolation": stated.get("interpolation") or "bicubic",
        "mean": tuple(stated.get("mean", (0.0,))),
        "std": tuple(stated.get("std", (1.0,))),
        "channels": "L" if channels == 1 else "RGB",
    }


def _of_transformers(source: Any) -> dict[str, Any]:
    size = dict(source.size) if source.do_resize else dict(source.crop_size)
    resize, edge = None, size.get("shortest_edge")
    crop_share = getattr(source, "crop_pct", None)
    if edge and crop_share and edge < 384:  # ConvNeXT resizes to more, and cuts out the middle
        resize, size = int(edge / crop_share), {"height": edge, "width": edge}
    elif edge and crop_share:
        size = {"height": edge, "width": edge}
    elif getattr(source, "do_center_crop", False):
        height, width = size.get("height"), size.get("width")
        resize, size = edge or (height if height == width else None), dict(source.crop_size)
    if "height" not in size or "width" not in size or not source.do_resize:
        raise ExportError(
            f"a {type(source).__name__} with size={size} gives pictures of several sizes: set "
            "size={'height': …, 'width': …} in preprocessor_config.json"
        )
    normalized = getattr(source, "do_normalize", True)
    return {
        "size": (size["height"], size["width"]),
        "resize": resize,
        "interpolation": _RESAMPLING[int(source.resample)],
        "mean": tuple(source.image_mean) if normalized else (0.0,),
        "std": tuple(source.image_std) if normalized else (1.0,),
    }
