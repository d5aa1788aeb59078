"""Sources that are no ONNX file: the program `fitserve.exporting` exports them, in its own process.

That process runs the user's code: a file of TorchScript, or a function that makes a network.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from models.errors import AddError
from models.package.files import FileError, open_file
from models.sources.file_kinds import DOORS, advice_for, kind_of
from models.sources.source import EXPORT_FILE
from models.sources.table_files import GivenTable, as_arrays


@contextmanager
def as_files(
    source: str,
    *,
    weights: Path | None = None,
    sample: Path | None = None,
    inputs: Sequence[str] = (),
    max_tokens: int | None = None,
    table: GivenTable | None = None,
) -> Iterator[tuple[Path, bool]]:
    """Yield an ONNX file or the folder of an export, and whether it was exported just now.

    Args:
        source: an ONNX file, the folder of an export, a file of another kind that can be exported,
            a folder of Hugging Face, `path/net.py:make`, `package.module:Class`, `timm:NAME` or
            `torchvision:NAME`.
        weights: the weights of a network that is made by code, or named.
        sample: an .npz file with rows of every input by name, or a file with a text in each line,
            for the export.
        inputs: the inputs, as `--input` states them, for the export.
        max_tokens: of a text, for the export of a folder.
        table: whose rows are the sample of an export.

    Raises:
        AddError: there is no such source, or it cannot be exported.
    """
    file, door = Path(source), None
    is_folder = file.is_dir() and _is_folder_of_a_library(file)
    if not file.is_dir() and (file.exists() or ":" not in source):
        door = _door(file)
    if file.exists() and door is None:
        if weights or inputs:
            option = "--weights" if weights else "--input"
            raise AddError(f"{option} is for networks that are made by code: omit it for {source}")
        if not is_folder:
            yield file, False
            return
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fitserve-"))
        if table:
            sample = stack.enter_context(as_arrays(table))
        command = [sys.executable, "-P", "-m", "fitserve.exporting", source, folder]
        command += ["--door", door] if door else []
        command += ["--weights", str(weights)] if weights else []
        command += ["--sample", str(sample)] if sample else []
        command += ["--max-tokens", str(max_tokens)] if max_tokens else []
        for stated in inputs:
            command += ["--input", stated]
        result = subprocess.run(  # noqa: S603 - the command is this project's own program
            command, env=_environment(), stdout=sys.stderr, stderr=subprocess.PIPE, text=True
        )
        if result.returncode:
            raise AddError(_reason(source, result))
        yield Path(folder), True


def _is_folder_of_a_library(folder: Path) -> bool:
    """Return whether a folder is one of Hugging Face; False if it is that of an export.

    Raises:
        AddError: the folder is neither.
    """
    if (folder / EXPORT_FILE).is_file():
        return False
    if not (folder / "config.json").is_file():
        raise AddError(
            f"{folder}: it is a folder without {EXPORT_FILE} or config.json: give a file, a folder "
            "of Hugging Face, or one that fitserve.save wrote"
        )
    return True


def _door(file: Path) -> str | None:
    """Return the door for a file; None for an ONNX file.

    Raises:
        AddError: the file cannot be read, or holds something that cannot be exported.
    """
    try:
        with open_file(file) as stream:
            kind = kind_of(stream)
    except FileError as error:
        raise AddError(f"{file}: {error}") from error
    if kind is None or kind in DOORS:
        return DOORS[kind] if kind else None
    raise AddError(f"{file}: {advice_for(kind)}")


def _reason(source: str, result: "subprocess.CompletedProcess[str]") -> str:
    """Return the error that the program printed, or how it ended."""
    for line in reversed(result.stderr.splitlines()):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    last = result.stderr.strip().splitlines()[-1:] or [f"exit status {result.returncode}"]
    return f"{source}: the export ended without a result ({last[0][:300]})"


def _environment() -> dict[str, str]:
    """Return an environment in which no folder `fitserve` of the user hides ours."""
    ours = str(Path(__file__).resolve().parents[2])
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([ours, *others])}
