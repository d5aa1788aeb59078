"""Takes this machine's paths out of a sentence that a caller will read; the log keeps them."""

import re
from pathlib import Path

# Absolute ones, of two or more parts; not the slashes of `N/A`, of a URL, or of a relative path.
_POSIX = re.compile(r"(?<![\w.:/\\-])(?:/[^\s/'\"()\[\]<>:,;]+)+/([^\s/'\"()\[\]<>:,;]+)")
_WINDOWS = re.compile(r"(?<!\w)[A-Za-z]:\\(?:[^\s\\'\"<>:,;]+\\)*([^\s\\'\"<>:,;]*)")


def without_paths(text: str, *known: Path) -> str:
    """The sentence with each absolute path cut to its last part.

    Args:
        text: the sentence.
        known: folders of ours, which are found also where their names hold spaces.
    """
    for folder in known:
        for path in {str(folder.absolute()), str(folder.resolve())}:
            text = text.replace(f"{path}/", "").replace(path, folder.name)
    return _WINDOWS.sub(r"\1", _POSIX.sub(r"\1", text))
