"""Starts the command line of training, `python -m training`, if what it needs is installed."""

from models.interrupts import exit_on_interrupt


def main() -> None:
    """Run the command of this process.

    Raises:
        SystemExit: with the exit code; or something that training needs is not installed.
    """
    try:
        with exit_on_interrupt():
            from training.command_line import app
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"error: training needs {error.name}, which is not installed here: `make dev` installs "
            "what is missing"
        ) from None
    app()


if __name__ == "__main__":
    main()
