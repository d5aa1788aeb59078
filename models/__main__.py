"""Starts the command line of the model repository, `python -m models`; Ctrl-C may come at once."""

import sys
from collections.abc import Sequence

from models.interrupts import exit_on_interrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """As `models.command_line.main`, which it imports."""
    from models.command_line import main as run

    return run(arguments)


if __name__ == "__main__":
    with exit_on_interrupt():
        from models.command_line import program
    sys.exit(program())
