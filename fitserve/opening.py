"""Networks named on the command line: a function or class in the user's code, with its weights."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from fitserve.doors import door_of, is_of
from fitserve.explain import failure
from fitserve.exported import ExportError

_PARTS = ("state_dict", "model_state_dict", "model", "net", "network", "ema")
"""Under one of these names, a checkpoint holds the weights beside other things."""


def open_object(source: str) -> Any:
    """Return the network that `path/net.py:make` or `package.module:Class` names.

    What is named is the network, or is called without arguments and returns it. The folder of the
    file, or the working directory, is the first place of imports.

    Raises:
        ExportError: the code cannot be found, fails, or makes something else.
    """
    place, _, name = source.rpartition(":")
    module = _module(place, source)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = ", ".join(key for key in vars(module) if not key.startswith("_"))
            raise ExportError(f"{source}: there is no {part!r}: {place} has {names or 'nothing'}")
        found = getattr(found, part)
    if isinstance(found, type) or (callable(found) and not _is_network(found)):
        try:
            found = found()
        except Exception as error:
            raise ExportError(
                f"{source}: calling it without arguments fails: {failure(error)}; name a "
                "function that needs no arguments and returns the network"
            ) from error
    return found


def _is_network(value: object) -> bool:
    try:
        door_of(value)
    except ExportError:
        return False
    return True


def _module(place: str, source: str) -> ModuleType:
    file = Path(place)
    folder = file.resolve().parent if place.endswith(".py") else Path.cwd()
    sys.path.insert(0, str(folder))
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        if not file.is_file():
            raise ExportError(f"{source}: there is no file {place}")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise ExportError(f"{source}: {place} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module  # classes in it are found by their module's name
        spec.loader.exec_module(module)
        return module
    except ExportError:
        raise
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{source}: the module {error.name} is not found: start the command in the folder of "
            "your project, in the environment that it runs in"
        ) from error
    except Exception as error:
        advice = "make the code run when it is imported"
        if "relative import" in str(error):
            advice = "name it as package.module:Class, from the folder above its package"
        raise ExportError(f"{source}: its import fails: {failure(error)}; {advice}") from error


def load_weights(network: Any, file: Path) -> None:
    """Load a checkpoint or a safetensors file into a module of torch.

    Only weights are read: no code in the file runs.

    Raises:
        ExportError: the file cannot be read, or does not fit the module.
    """
    if not is_of(network, "torch", "Module"):
        raise ExportError(
            f"--weights is for a torch.nn.Module, and this is a {type(network).__qualname__}: omit "
            "it"
        )
    weights = read_weights(file)
    try:
        result = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        sizes = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ExportError(
            f"{file.name}: its weights have other sizes than the network ({sizes}): make the "
            "network as it was trained"
        ) from error
    for title, keys in (
        ("lacks", result.missing_keys),
        ("has more weights than the network:", result.unexpected_keys),
    ):
        if keys:
            shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise ExportError(
                f"{file.name}: it {title} {shown}: make the network as it was trained"
            )


def read_weights(file: Path) -> dict[str, Any]:
    """Return the weights in a checkpoint or a safetensors file by name; no code in it runs.

    Raises:
        ExportError: the file cannot be read, or holds no weights.
    """
    return _state(_weights(file))


def _weights(file: Path) -> Any:
    import torch

    if not file.is_file():
        raise ExportError(f"--weights: there is no file {file}")
    with file.open("rb") as stream:
        head = stream.read(10)
    if head[8:] == b'{"':
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ExportError("safetensors is not installed: pip install safetensors") from error
        return load_file(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ExportError(
            f"{file.name}: torch reads no weights in it ({_kind(error)}): save them with "
            f"torch.save(network.state_dict(), {file.name!r})"
        ) from error


def _kind(error: Exception) -> str:
    text = str(error)
    if "Unsupported" in text or "weights_only" in text:
        return "it holds Python objects, whose loading would run code"
    return text.splitlines()[0][:120] if text else type(error).__name__


def _state(content: Any) -> dict[str, Any]:
    """Return the weights by name, without the wrappers of trainers and of DataParallel."""
    import torch

    while isinstance(content, dict) and not any(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        part = next((name for name in _PARTS if isinstance(content.get(name), dict)), None)
        if part is None:
            break
        content = content[part]
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    if not isinstance(content, dict) or not content:
        raise ExportError(
            f"the file of --weights holds a {type(content).__name__}: save the network's "
            "state_dict()"
        )
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(isinstance(key, str) and key.startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
    return dict(content)
