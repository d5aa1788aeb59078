"""A program that computes a graph with inputs of several sizes; ONNX Runtime may end it.

It reads JSON from standard input: `graph` and `rows` are files (.onnx and .npz), `cases` lists for
each case the shapes of the inputs. It prints the number of each case before that case, and "?"
behind it if the outputs depend on what was in the memory. It imports little of this package, so
that it starts fast.
"""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from models.runtimes.bfloat16 import run_of

_M_MMAP_MAX, _M_PERTURB = -4, -6
"""Options of glibc's `mallopt`: the number of allocations by mmap, which are filled with zeros, and
the byte with whose complement new memory is filled."""
_BYTES = (85, 170, 85)
"""Numbers made of the first byte are large, those made of the second are small or negative."""
_TOLERANCE = 1e-3
"""Relative to the largest number of an output: threads may add numbers in another order."""


def _mallopt(option: int, value: int) -> bool:
    """Set an option of the allocator; return whether it has such options (glibc)."""
    try:
        return bool(ctypes.CDLL(None).mallopt(option, value))
    except (AttributeError, OSError, TypeError):
        return False


def _same(outputs: list[NDArray[Any]], others: list[NDArray[Any]]) -> bool:
    return all(_equal(*pair) for pair in zip(outputs, others, strict=True))


def _equal(first: NDArray[Any], second: NDArray[Any]) -> bool:
    if first.shape != second.shape or first.dtype.kind != "f":
        return np.array_equal(first, second)
    if not np.array_equal(np.isfinite(first), np.isfinite(second)):
        return False
    first, second = (
        np.nan_to_num(first.astype(np.float64)),
        np.nan_to_num(second.astype(np.float64)),
    )
    largest = np.maximum(np.abs(first), np.abs(second)).max(initial=0.0)
    return bool(np.abs(first - second).max(initial=0.0) <= _TOLERANCE * largest)


def main() -> None:
    """Compute each case; errors other than the end of the process are ignored."""
    task = json.load(sys.stdin)
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # each tensor is allocated by the C library
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        task["graph"], options, providers=["CPUExecutionProvider"]
    )
    run, names = run_of(session), [output.name for output in session.get_outputs()]
    fills = _mallopt(_M_MMAP_MAX, 0)
    with np.load(task["rows"]) as rows:
        arrays = (rows[f"arr_{index}"] for index in range(len(task["names"])))
        texts_as_objects = (a.astype(object) if a.dtype.kind == "U" else a for a in arrays)
        inputs = dict(zip(task["names"], texts_as_objects, strict=True))
    for number, shapes in enumerate(task["cases"]):
        print(number, end="", flush=True)  # noqa: T201 - the result of this program
        case = {name: np.resize(array, shapes[name]) for name, array in inputs.items()}
        try:
            runs = []
            for byte in _BYTES if fills else _BYTES[:1]:
                _mallopt(_M_PERTURB, byte)
                runs.append([output for output in run(names, case) if hasattr(output, "dtype")])
        except Exception:  # noqa: BLE001 - such a request gets an error response
            runs = []
        depends = len(runs) == len(_BYTES) and _same(runs[0], runs[2]) and not _same(*runs[:2])
        print("?" if depends else "", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
