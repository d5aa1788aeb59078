"""Starts `bentoml serve` with these options: `python -m service --port 3000`, as `make serve` does.

BentoML makes folders in its home before it reads anything of the service, and ends with a traceback
where it cannot. The service keeps nothing there. So where the home, or the folder for temporary
files, cannot be written to, another one is taken, and a line says so.
"""

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

_FOLDERS = ("bentos", "models", "envs", "tmp")  # that BentoML wants in its home
_INTERRUPTED = 130


def main() -> None:
    """Serve until the end.

    Raises:
        SystemExit: with what `bentoml serve` ends with; or no folder can be written to.
    """
    from service.telemetry.counts_folder import ensure_temporary_folder

    ensure_temporary_folder()
    with ExitStack() as stack:
        try:
            home = Path(os.environ.get("BENTOML_HOME") or Path("~/bentoml").expanduser())
            for name in _FOLDERS:
                (home / name).mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # this user may have no home at all
            other = stack.enter_context(tempfile.TemporaryDirectory(prefix="fitserve-home-"))
            os.environ["BENTOML_HOME"] = other
            sys.stderr.write(f"warning: BentoML's home cannot be used, and is {other}: {error}\n")
        from bentoml_cli.cli import cli  # it is imported when its home is known

        cli(["serve", *sys.argv[1:]], prog_name="bentoml")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # while it still imports what it needs
        sys.exit(_INTERRUPTED)
