"""Remove the paths of this machine from sentences for callers; the log keeps them."""

import re
from pathlib import Path

# Patterns in the order of their search. A quoted path may contain spaces. An absolute path is not
# preceded by a word character, a dot or a slash, so `N/A`, `1/2`, `./x` and URLs do not match.
_QUOTED = re.compile(r"""(['"`])((?:file:)?(?:[A-Za-z]:)?[\\/][^'"`\n]*)\1""")
_ADDRESS = r"(?P<kept>\b(?!file:)[A-Za-z][\w+.-]+://[^\s'\"<>]*)"
_PART = r"[^\s\\/'\"`()\[\]<>:,;]+"
_WINDOWS = rf"(?<!\w)[A-Za-z]:[\\/]+(?:{_PART}[\\/]+)*(?P<windows>{_PART})?[\\/]*"
_POSIX = rf"(?:\bfile:(?://localhost)?)?(?<![\w./\\])[\\/]+(?:{_PART}[\\/]+)*(?P<posix>{_PART})/*"
_PATH = re.compile(f"{_ADDRESS}|{_WINDOWS}|{_POSIX}")


def without_paths(text: str, *folders: Path) -> str:
    """Return the sentence with each absolute path reduced to its last part.

    Args:
        text: the sentence.
        folders: folders of the service, which may contain spaces.
    """
    for folder in folders:
        for path in {str(folder.absolute()), str(folder.resolve())}:
            text = text.replace(f"{path}/", "").replace(path, folder.name)
    return _PATH.sub(_last_part, _QUOTED.sub(_quoted, text))


def _quoted(match: re.Match[str]) -> str:
    quote, path = match.groups()
    name = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return f"{quote}{name}{quote}"


def _last_part(match: re.Match[str]) -> str:
    return match["kept"] or match["windows"] or match["posix"] or ""
