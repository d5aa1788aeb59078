"""Networks by name: `timm:resnet18` and `torchvision:resnet18`, with weights in a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.exported import Exported, ExportError, reason
from fitserve.opening import load_weights, read_weights
from fitserve.pictures import export_pictures

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("timm", "torchvision")


def is_named(source: str) -> bool:
    """Return whether a source names a network of a library."""
    return source.partition(":")[0] in LIBRARIES and ":" in source


def export_named(source: str, weights: Path | None) -> Exported:
    """Return a network for pictures as files.

    Args:
        source: the library and the name, as `timm:resnet18`.
        weights: a checkpoint or safetensors file, also with another number of classes; by default
            the library's own weights, which it downloads.

    Raises:
        ExportError: the library has no such network, or the weights cannot be read or downloaded.
    """
    library, _, name = source.partition(":")
    make = _of_timm if library == "timm" else _of_torchvision
    network, picture, labels = make(name, weights)
    return export_pictures(network, None, picture, None, labels)


def _of_timm(name: str, weights: Path | None) -> tuple["nn.Module", Any, list[str]]:
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*")[:5]
        raise ExportError(_unknown("timm", name, near))
    try:
        network = timm.create_model(name, pretrained=weights is None)
    except Exception as error:
        raise ExportError(_no_download("timm", name, error)) from error
    if weights is not None:
        network = _with_classes(
            network, weights, lambda count: timm.create_model(name, num_classes=count)
        )
        load_weights(network, weights)
    labels = network.pretrained_cfg.get("label_names") or ()
    return network, network, _fitting(labels, network.num_classes)


def _of_torchvision(name: str, weights: Path | None) -> tuple["nn.Module", Any, list[str]]:
    from torchvision import models

    if name not in models.list_models(module=models):
        near = [one for one in models.list_models(module=models) if one.startswith(name[:4])][:5]
        raise ExportError(_unknown("torchvision", name, near))
    default = models.get_model_weights(name).DEFAULT
    try:
        network = models.get_model(name, weights=default if weights is None else None)
    except Exception as error:
        raise ExportError(_no_download("torchvision", name, error)) from error
    labels = default.meta["categories"]
    if weights is not None:
        network = _with_classes(
            network, weights, lambda count: models.get_model(name, num_classes=count)
        )
        load_weights(network, weights)
    return network, default.transforms(), _fitting(labels, _classes(network.state_dict()))


def _with_classes(network: "nn.Module", weights: Path, make: Any) -> "nn.Module":
    """Return the network with as many classes as the weights have."""
    state, own = read_weights(weights), network.state_dict()
    other = {
        len(state[key])
        for key, tensor in own.items()
        if key in state and state[key].shape != tensor.shape and tensor.ndim
    }
    if len(other) != 1:
        return network
    made: nn.Module = make(other.pop())
    return made


def _classes(state: Mapping[str, Any]) -> int:
    """Return the size of the last layer, that of the classes."""
    return len(list(state.values())[-1])


def _fitting(labels: Any, count: int) -> list[str]:
    """Return the labels if there are as many as classes; a network with other classes has none."""
    return [str(label) for label in labels] if len(labels) == count else []


def _unknown(library: str, name: str, near: list[str]) -> str:
    known = f"; it has {', '.join(near)}" if near else ""
    return f"{library} has no network {name!r} for the classes of pictures{known}"


def _no_download(library: str, name: str, error: Exception) -> str:
    return (
        f"the weights of {library}:{name} cannot be downloaded ({reason(error)[:200]}): give them "
        "with --weights FILE.safetensors or FILE.pth"
    )
