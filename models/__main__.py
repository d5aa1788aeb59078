"""The command line of the model repository: `python -m models list | show NAME | verify`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.package import ModelPackage, PackageError
from models.page import headline, render_page
from models.repository import ModelRepository
from models.runtimes import open_runtime


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where all is well, 1 where a package is not, 2 for a wrong call."""
    parser = argparse.ArgumentParser(
        prog="python -m models", description="List, show and verify model packages."
    )
    parser.add_argument(
        "--repository", type=Path, default=Path("models"), help="the folder (default: models)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="one line for each package")
    show = commands.add_parser("show", help="a package's card, as a page")
    show.add_argument("name", help="NAME or NAME/VERSION")
    show.add_argument("--json", action="store_true", help="the card itself")
    verify = commands.add_parser(
        "verify", help="check digests and graphs, and repeat the recorded predictions"
    )
    verify.add_argument("names", nargs="*", metavar="NAME", help="packages (default: all)")
    options = parser.parse_args(arguments)

    repository = ModelRepository(options.repository)
    if options.command != "show" and not repository.names():
        sys.stderr.write(f"error: there is no package in {repository.root}\n")
        return 1
    try:
        if options.command == "list":
            return _list(repository)
        if options.command == "show":
            card = _find(repository, options.name).card
            _say(card.model_dump_json(indent=1) if options.json else render_page(card).rstrip())
            return 0
        return _verify(repository, options.names)
    except PackageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _list(repository: ModelRepository) -> int:
    entries = dict(repository)
    width = max(map(len, entries), default=0)
    for label, package in entries.items():
        if isinstance(package, PackageError):
            _say(f"{label:{width}}  refused: {package}")
        else:
            _say(f"{label:{width}}  {headline(package.card)}")
    return 1 if any(isinstance(package, PackageError) for package in entries.values()) else 0


def _verify(repository: ModelRepository, names: Sequence[str]) -> int:
    entries = {name: _find(repository, name) for name in names} if names else dict(repository)
    wrong = 0
    for label, package in entries.items():
        try:
            if isinstance(package, PackageError):
                raise package
            package.verify()
            for runtime in package.card.runtimes:
                open_runtime(package, runtime)
        except PackageError as error:
            wrong += 1
            _say(f"refused  {error}")
        except ImportError as error:
            wrong += 1
            _say(f"untried  {label}: {error.name} is not installed")
        else:
            _say(f"right    {package.label}: {', '.join(package.card.runtimes)}")
    return 1 if wrong else 0


def _find(repository: ModelRepository, name: str) -> ModelPackage:
    base, _, version = name.partition("/")
    return repository.get(base, version or None)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
