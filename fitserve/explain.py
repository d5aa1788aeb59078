"""Why a network of torch cannot be exported, with the line of the user's code and what to write.

The exporter raises deep inside torch. The last line outside of installed libraries is the user's.
"""

import linecache
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_LIBRARIES = tuple(
    str(Path(sysconfig.get_paths()[kind]).resolve()) for kind in ("purelib", "platlib", "stdlib")
)
_OURS = str(Path(__file__).resolve().parent)
_PACKED = r"pack_padded_sequence|pad_packed_sequence|PackedSequence"
_ADVICE = (
    (
        _PACKED,
        "packed sequences have no form in ONNX: give the network the padded sequence, and take the "
        "output at the last step of each row with torch.gather",
    ),
    (
        r"\.item\(\)|\.tolist\(\)|int\(|float\(|bool\(",
        "a Python number is taken out of a tensor, which would be the same for every request: "
        "compute with tensors throughout",
    ),
    (
        r"^\s*(if|elif|while|assert)\b|\bif\b.*\belse\b",
        "which way the code takes depends on the values of a request: write torch.where(condition, "
        "one, other), or torch.cond",
    ),
    (
        r"^\s*for\b",
        "how often the loop runs depends on the values of a request: compute all steps and mask "
        "those that do not count",
    ),
    (
        r"\.numpy\(\)|np\.|numpy\.",
        "numpy computes outside of the network: write the same function of torch",
    ),
    (
        r"\.(view|reshape|expand|repeat)\(|torch\.(zeros|ones|full|empty|randn|rand)\(",
        "a size is fixed that differs between requests: take it from the input, as x.shape[0], "
        "or write -1",
    ),
    (
        r"nonzero|unique|masked_select|\[[^\]]*(>|<|==|mask)[^\]]*\]",
        "the size of the result depends on the values of a request: keep all elements, and mask "
        "with torch.where",
    ),
)
_GENERAL = "write that step with operators of torch alone"
_BATCH = (
    "the number of rows is fixed there: take it from the input, as x.shape[0], or write -1 "
    "(x.flatten(1) in place of x.view(16, -1))"
)


def explanation(error: BaseException) -> str:
    """Return the reason, the user's line, and the advice, as the end of a sentence."""
    place = _user_line(error) or _line_in(str(error))
    if place is None and is_fixed_size(error):
        return _fixed_sizes(str(error))
    if place is None:
        return f"{_last_words(error)}: {_GENERAL}"
    file, number, code = place
    advice = next((advice for pattern, advice in _ADVICE if re.search(pattern, code)), None)
    if advice is None and re.search(_PACKED, _code_before(file, number)):
        advice = _ADVICE[0][1]
    return f"{failure(error)}: {advice or _GENERAL}"


def failure(error: BaseException) -> str:
    """Return the reason and the user's line, without advice."""
    place = _user_line(error) or _line_in(str(error))
    if place is None:
        return _last_words(error)
    file, number, code = place
    return f"{_last_words(error)}, at {Path(file).name}:{number}, `{code.strip()}`"


def is_fixed_size(error: BaseException) -> bool:
    """Return whether torch.export found that the code has a fixed size where any was wanted."""
    return "Constraints violated" in str(error) or "specialized" in str(error)


def suggested_maxima(error: BaseException) -> dict[str, int]:
    """Return the largest size of each free dimension that torch.export suggests, by name."""
    _, _, suggested = str(error).partition("Suggested fixes:")
    found = re.findall(r"^\s*(\w+) = Dim\(.*max=(\d+)\)\s*$", suggested, re.MULTILINE)
    return {name: int(size) for name, size in found}


def _fixed_sizes(text: str) -> str:
    """Return which sizes torch.export suggests, and what to do."""
    _, _, suggested = text.partition("Suggested fixes:")
    sizes = re.findall(r"^\s*([a-z]\w* = .+?)\s*$", suggested, re.MULTILINE)
    shown = " and ".join(sizes) or "a fixed size"
    return f"it can be exported for {shown} alone: {_BATCH}"


def _code_before(file: str, number: int) -> str:
    """Return the lines of the function up to this one; packed sequences fail after their making."""
    lines = []
    for at in range(number, max(number - 50, 0), -1):
        line = linecache.getline(file, at)
        lines.append(line)
        if re.match(r"\s*def ", line):
            break
    return "".join(lines)


def _user_line(error: BaseException) -> tuple[str, int, str] | None:
    """Return the file, the number and the code of the last line of the user in the tracebacks."""
    for one in _chain(error):
        places = [
            (frame.tb_frame.f_code.co_filename, frame.tb_lineno)
            for frame in _frames(one.__traceback__)
        ]
        for file, number in reversed(places):
            if _is_users(file) and (code := linecache.getline(file, number)):
                return file, number, code
    return None


def _line_in(text: str) -> tuple[str, int, str] | None:
    """Return the same from a message of torch, which quotes the user's code."""
    found = re.findall(r'File "([^"]+)", line (\d+), in \w+\n\s*(.+)', text)
    users = [place for place in found if _is_users(place[0])]
    if not users:
        return None
    file, number, code = users[-1]
    return file, int(number), code


def _is_users(file: str) -> bool:
    """Return whether a file is neither of Python, nor of a library, nor of this package.

    Cells of a notebook have names such as `<ipython-input-3>` or files in a folder for temporary
    files.
    """
    if file.startswith("<") and not file.startswith("<ipython"):
        return False
    path = str(Path(file).resolve())
    return not path.startswith((*_LIBRARIES, _OURS))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the causes of an error first, then the error."""
    if error is not None:
        yield from _chain(error.__cause__ or error.__context__)
        yield error


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _last_words(error: BaseException) -> str:
    """Return the first sentence of the first cause, on one line of at most 200 characters."""
    first = next(_chain(error))
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    text = (lines[0] if lines else type(first).__name__).rstrip(".:")
    return text if len(text) <= 200 else f"{text[:200]}…"
