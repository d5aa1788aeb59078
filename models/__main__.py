"""The start of `python -m models`, the command line of the model repository.

Ctrl-C ends it with the right exit code even while it imports.
"""

import sys
from collections.abc import Sequence

from models.interrupts import exit_on_interrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Import `models.command_line.main` and call it."""
    from models.command_line import main as run

    return run(arguments)


if __name__ == "__main__":
    with exit_on_interrupt():
        from models.command_line import program
    sys.exit(program())
