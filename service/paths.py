"""Takes this machine's paths out of a sentence that a caller will read; the log keeps them."""

import re
from pathlib import Path

# In the order in which they are looked for. What stands in quotes may hold spaces. An absolute path
# begins where no word, dot or slash does, so that `N/A`, `1/2`, `./x` and addresses are none.
_QUOTED = re.compile(r"""(['"`])((?:file:)?(?:[A-Za-z]:)?[\\/][^'"`\n]*)\1""")
_ADDRESS = r"(?P<kept>\b(?!file:)[A-Za-z][\w+.-]+://[^\s'\"<>]*)"
_PART = r"[^\s\\/'\"`()\[\]<>:,;]+"
_WINDOWS = rf"(?<!\w)[A-Za-z]:[\\/]+(?:{_PART}[\\/]+)*(?P<windows>{_PART})?[\\/]*"
_POSIX = rf"(?:\bfile:(?://localhost)?)?(?<![\w./\\])[\\/]+(?:{_PART}[\\/]+)*(?P<posix>{_PART})/*"
_PATH = re.compile(f"{_ADDRESS}|{_WINDOWS}|{_POSIX}")


def without_paths(text: str, *known: Path) -> str:
    """The sentence with each absolute path cut to its last part.

    Args:
        text: the sentence.
        known: folders of ours, which are found also where their names hold spaces.
    """
    for folder in known:
        for path in {str(folder.absolute()), str(folder.resolve())}:
            text = text.replace(f"{path}/", "").replace(path, folder.name)
    return _PATH.sub(_last_part, _QUOTED.sub(_quoted, text))


def _quoted(found: re.Match[str]) -> str:
    quote, path = found.groups()
    last = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return f"{quote}{last}{quote}"


def _last_part(found: re.Match[str]) -> str:
    return found["kept"] or found["windows"] or found["posix"] or ""
