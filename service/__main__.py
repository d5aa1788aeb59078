"""The program `python -m service`: it runs `bentoml serve` for this service, from any folder.

Its options are those of `bentoml serve`, and `--repository DIR`. `make serve` calls it.

BentoML creates folders in its home before it reads anything of the service, and ends with a
traceback if it cannot. The service keeps nothing there. If the home, or the folder for temporary
files, is not writable, another folder replaces it, and a warning names it.
"""

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

_SERVICE = "service.service:FitServe"
_FOLDERS = ("bentos", "models", "envs", "tmp")  # that BentoML creates in its home
_INTERRUPTED = 130


def main() -> None:
    """Serve until the end.

    Raises:
        SystemExit: with the exit status of `bentoml serve`; or no folder is writable.
    """
    from service.telemetry.multiprocess_folder import ensure_temporary_folder

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--repository", type=Path)
    own_options, options = parser.parse_known_args()
    if own_options.repository is not None:
        os.environ["FITSERVE_MODEL_REPOSITORY"] = str(own_options.repository.absolute())
    ensure_temporary_folder()
    with ExitStack() as stack:
        try:
            home = Path(os.environ.get("BENTOML_HOME") or Path("~/bentoml").expanduser())
            for name in _FOLDERS:
                (home / name).mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # this user may have no home at all
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="fitserve-home-"))
            os.environ["BENTOML_HOME"] = temporary
            sys.stderr.write(
                f"warning: BentoML's home directory cannot be used, {temporary} is used: {error}\n"
            )
        from bentoml_cli.cli import cli  # imported when its home is known

        root = str(Path(__file__).resolve().parent.parent)
        cli(["serve", _SERVICE, "--working-dir", root, *options], prog_name="bentoml")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # during the imports
        sys.exit(_INTERRUPTED)
