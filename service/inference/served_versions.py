"""The highest version of each package that was served, kept in a file across restarts.

The file shows that a package serves in an older version than before. It is JSON: an object of names
and version numbers. It is replaced atomically; an unreadable file counts as empty.
"""

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from models.package.card import is_package_name, is_package_version
from models.package.files import FileError, open_file, read_all
from service.telemetry.logs import logger

MAX_BYTES = 2**20


class RecordError(Exception):
    """An error for a record that cannot be read or written, with a sentence that names the file."""


def older_versions(
    served: Mapping[str, int], file: Path | None, repository: Path
) -> Mapping[str, str]:
    """Return the packages that serve in an older version than before, each with a sentence.

    The sentences are logged as warnings, and so is a record that cannot be read or written. The
    record is updated.

    Args:
        served: the versions that serve now, by name.
        file: the record; None for that of this user and repository.
        repository: the folder of the packages.
    """
    highest: dict[str, int] = {}
    try:
        file = (file or default_file(repository)).resolve()
        try:
            highest = read(file)
        except RecordError as error:
            logger.warning("the record of the versions served is started again: %s", error)
        keep(file, served)
    except RecordError as error:
        logger.warning("an older version that is put back later may not be noticed: %s", error)
    notices = {
        name: f"version {highest[name]} was served before and is not there any more; "
        f"the older version {version} serves"
        for name, version in served.items()
        if version < highest.get(name, 0)
    }
    for name, notice in notices.items():
        logger.warning("package %s: %s", name, notice)
    return notices


def default_file(repository: Path) -> Path:
    """Return the record of a repository, in the user's folder for persistent state.

    Raises:
        RecordError: the user has no home directory.
    """
    folder = os.environ.get("XDG_STATE_HOME", "")
    try:
        state = Path(folder) if Path(folder).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise RecordError(
            "this user has no home for the record of the versions served: set "
            "FITSERVE_VERSIONS_FILE"
        ) from error
    digest = hashlib.sha256(os.fsencode(repository.absolute())).hexdigest()
    return state / "fitserve" / f"served-versions-{digest[:16]}.json"


def read(file: Path) -> dict[str, int]:
    """Return the highest version served, by name; empty if there is no record.

    Raises:
        RecordError: the file cannot be read, or is malformed.
    """
    try:
        with open_file(file) as stream:
            content = json.loads(read_all(stream, MAX_BYTES))
    except FileError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        raise RecordError(f"{file}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{file}: it is not readable JSON") from error
    if not isinstance(content, dict) or not all(
        is_package_name(name) and type(version) is int and is_package_version(str(version))
        for name, version in content.items()
    ):
        raise RecordError(f"{file}: it is not an object of names and version numbers")
    return content


def is_replaceable(file: Path) -> bool:
    """Return whether a record may replace the file; not a device, a pipe or a folder."""
    try:
        return stat.S_ISREG(os.lstat(file).st_mode)
    except OSError:
        return not os.path.lexists(file)


def keep(file: Path, served: Mapping[str, int]) -> None:
    """Write the served versions into the record, where they are higher.

    Raises:
        RecordError: the file cannot be written; it is unchanged.
    """
    try:
        recorded = read(file)
    except RecordError as error:
        if not is_replaceable(file):
            raise RecordError(f"{error}; name another with FITSERVE_VERSIONS_FILE") from error
        recorded = {}
    highest = recorded | {
        name: max(recorded.get(name, 0), version) for name, version in served.items()
    }
    if highest == recorded:
        return
    staging = None
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, prefix=".served-versions-", delete=False
        ) as stream:
            staging = Path(stream.name)
            json.dump(highest, stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(file)
    except OSError as error:
        if staging:
            with suppress(OSError):
                staging.unlink()
        reason = error.strerror or type(error).__name__
        raise RecordError(f"{file}: it cannot be written ({reason})") from error
