"""The doors: how a network of each library becomes files that are served.

A door is a module with the functions of `Door`. A further library is a further module and a line
in `DOORS`. No door imports its library before a network of that library is given.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from fitserve.exported import Exported, ExportError

DOORS = ("torch_module", "torch_program", "torchscript", "sklearn", "xgboost", "lightgbm", "keras")
"""The modules, in the order in which a network is offered to them."""


class Door(Protocol):
    """The functions of a door."""

    SHOWN: str
    """The kind of network, for messages."""

    def takes(self, network: object) -> bool:
        """Return whether the network is of this kind. It must not import the library."""
        ...

    def read(self, file: Path) -> Any:
        """Return the network in a file of this kind.

        Raises:
            ExportError: the file cannot be read.
        """
        ...

    def export(self, network: Any, samples: Sequence[Any], labels: Sequence[str]) -> Exported:
        """Return the network as files.

        Args:
            network: a network of this kind.
            samples: one or more samples, in the forms that `fitserve.save` takes.
            labels: the classes; empty if they are not given.

        Raises:
            ExportError: the network cannot be exported.
        """
        ...


def door(name: str) -> Door:
    """Return the door of this name, one of `DOORS`."""
    return cast(Door, import_module(f"fitserve.doors.{name}"))


def door_of(network: object) -> Door:
    """Return the door for a network.

    Raises:
        ExportError: no door takes it.
    """
    doors = [door(name) for name in DOORS]
    for found in doors:
        if found.takes(network):
            return found
    kinds = ", ".join(found.SHOWN for found in doors)
    raise ExportError(
        f"a {type(network).__module__}.{type(network).__qualname__} cannot be exported: give one "
        f"of {kinds}, or export it as ONNX and give the file to `fitserve add`"
    )


def is_of(network: object, library: str, *classes: str) -> bool:
    """Return whether the class of an object, or one of its bases, is defined in a library.

    Args:
        network: the object.
        library: the first part of the module's name.
        classes: the names of the classes; any class of the library by default.
    """
    return any(
        base.__module__.partition(".")[0] == library and (not classes or base.__name__ in classes)
        for base in type(network).__mro__
    )
