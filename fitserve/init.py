"""The command `fitserve init DIR`: a folder of one's own for models, settings and deployment."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

TEMPLATE = Path(__file__).parent / "template"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the folder; return 0, or 1 after an error, which is printed."""
    parser = argparse.ArgumentParser(
        prog="fitserve init",
        description="Make a folder with an empty model repository, a file of settings, a compose "
        "file, and manifests for Kubernetes that take the models from a volume, S3 or an image.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    folder = parser.parse_args(arguments).folder
    try:
        if folder.exists() and any(folder.iterdir()):
            sys.stderr.write(f"error: {folder} is not empty: name a new folder\n")
            return 1
        shutil.copytree(
            TEMPLATE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
        (folder / "models").mkdir()
    except OSError as error:
        sys.stderr.write(
            f"error: {folder} cannot be made ({error.strerror}): name another folder\n"
        )
        return 1
    sys.stdout.write(
        f"made {folder}. Add a network, and serve it:\n"
        f"  fitserve add NAME SOURCE --repository {folder / 'models'}\n"
        f"  fitserve serve --repository {folder / 'models'}\n"
        f"{folder / 'README.md'} has the rest.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
