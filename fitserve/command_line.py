"""The command `fitserve`: one name for the programs of this project.

Each command is a program of its own, `python -m …`, which reads the rest of the command line. A
console script does not put the working directory on `sys.path`: a folder named `models` there does
not hide the package of that name.
"""

import runpy
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

COMMANDS = {
    "init": ("fitserve.init", (), "make a folder for models, settings and deployment"),
    "serve": ("service", (), "serve the model repository over HTTP"),
    "add": ("models", ("add",), "make a package from a network of any origin"),
    "check": ("models", ("check",), "compute a package, and show what a caller sends and gets"),
    "list": ("models", ("list",), "list the packages"),
    "show": ("models", ("show",), "show the card of a package"),
    "verify": ("models", ("verify",), "check packages, and repeat their recorded predictions"),
    "remove": ("models", ("remove",), "move a version of a package aside"),
    "restore": ("models", ("restore",), "bring back a version that was moved aside"),
    "fit": ("training", ("fit",), "train recipes and write packages"),
    "tune": ("training", ("tune",), "search the hyperparameters of a recipe"),
    "recipes": ("training", ("list",), "list the recipes"),
    "keys": ("service.http.auth", (), "make an API key"),
}
"""For each command: the program, its first arguments, and what it does."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: of the command line; by default, those of this process.

    Raises:
        SystemExit: with the exit status of the command; 2 for a command that does not exist.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    command, *rest = given or ["--help"]
    if command in ("-h", "--help"):
        sys.stdout.write(_usage())
        return
    if command == "--version":
        sys.stdout.write(f"fitserve {_version()}\n")
        return
    if command not in COMMANDS:
        sys.stderr.write(_usage())
        raise SystemExit(f"error: there is no command {command!r}")
    module, first, _ = COMMANDS[command]
    sys.argv = [sys.argv[0], *first, *rest]
    runpy.run_module(module, run_name="__main__")


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {command:{width}}  {does}" for command, (_, _, does) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: fitserve COMMAND [options]",
            "",
            *lines,
            "",
            "fitserve COMMAND --help shows the options of a command.",
            "",
        ]
    )


def _version() -> str:
    try:
        return version("fitserve")
    except PackageNotFoundError:
        return "(not installed)"
