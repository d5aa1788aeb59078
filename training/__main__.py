"""Entry point of `python -m training`; reports a missing dependency of training."""

from models.interrupts import exit_on_interrupt


def main() -> None:
    """Run the command line.

    Raises:
        SystemExit: with the exit code, or with a message if a dependency is not installed.
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
