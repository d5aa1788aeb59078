"""The highest version served of each package, kept in a file that outlives the service.

With it an older version is told from the newest one that ever was. The file is JSON, an object of
names and version numbers. It is replaced whole, and one that cannot be read counts as empty.
"""

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from models.card import is_package_name, is_package_version
from models.files import FileError, open_file, read_all
from service.telemetry.logs import logger

MAX_BYTES = 2**20


class RecordError(Exception):
    """A record that cannot be read or kept: one sentence that says which, and why."""


def older_versions(
    served: Mapping[str, int], file: Path | None, repository: Path
) -> Mapping[str, str]:
    """The packages that serve in a lower version than they once did, each with a sentence.

    They are warned of in the log, and so is a record that cannot be read or kept. The record then
    holds what serves now, too.

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
            logger.warning("the record of the versions served begins anew: %s", error)
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
    """The record of a repository, in the user's folder for what programs remember.

    Raises:
        RecordError: the user has no home.
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
    """The highest version served, by name; nothing where there is no record yet.

    Raises:
        RecordError: the file cannot be read, or is no record.
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
        raise RecordError(f"{file}: it is no object of names and version numbers")
    return content


def is_replaceable(file: Path) -> bool:
    """Whether a record may be put there: a device, a pipe or a folder is left as it is."""
    try:
        return stat.S_ISREG(os.lstat(file).st_mode)
    except OSError:
        return not os.path.lexists(file)


def keep(file: Path, served: Mapping[str, int]) -> None:
    """Write what was served into the record, where it is higher than what stands there.

    Raises:
        RecordError: the file cannot be written; it is as it was.
    """
    try:
        known = read(file)
    except RecordError as error:
        if not is_replaceable(file):
            raise RecordError(f"{error}; name another with FITSERVE_VERSIONS_FILE") from error
        known = {}
    highest = known | {name: max(known.get(name, 0), version) for name, version in served.items()}
    if highest == known:
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
