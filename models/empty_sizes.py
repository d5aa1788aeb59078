"""Which free dimensions of a graph must not have the size 0.

Some operators of ONNX Runtime end the process on an empty tensor, such as a GRU over no steps. The
graph is therefore computed with empty inputs in another process (`empty_run.py`).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from models.free_sizes import dimension_key, free_dimensions
from models.runtimes import Arrays, DeclaredTensor

MAX_PAIRS = 10
"""Number of pairs of dimensions that are tested; more would take too long."""
RUN_SECONDS = 60.0
"""A run without an end counts as one that ended the process."""


def nonempty_dimensions(
    content: bytes, inputs: Sequence[DeclaredTensor], rows: Arrays
) -> Mapping[str, tuple[int, ...]]:
    """Return the axes of each input that must not be empty.

    Each free dimension is tested with the size 0 by itself, in pairs, and with all others.

    Args:
        content: the ONNX file.
        inputs: as the graph declares them; dimensions of one name have one size.
        rows: valid inputs by name.
    """
    free = free_dimensions(inputs, rows)
    if not free:
        return {}
    pairs = list(combinations(free, 2))[:MAX_PAIRS]
    groups = [*((key,) for key in free), *pairs, *([tuple(free)] if len(free) > 2 else [])]
    ended = _ended(content, inputs, rows, groups)
    unsafe = {group[0] for group in ended if len(group) == 1}
    for group in ended:
        if not unsafe & {*group}:  # the dimensions are safe one by one, and not together
            unsafe.update(group)
    found = {
        tensor.name: tuple(
            axis for axis in range(1, len(tensor.shape)) if dimension_key(tensor, axis) in unsafe
        )
        for tensor in inputs
    }
    return {name: axes for name, axes in found.items() if axes}


def _ended(
    content: bytes,
    inputs: Sequence[DeclaredTensor],
    rows: Arrays,
    groups: Sequence[tuple[Hashable, ...]],
) -> list[tuple[Hashable, ...]]:
    """Return the groups of dimensions that end the process if all of them are empty."""
    ended: list[tuple[Hashable, ...]] = []
    left = list(groups)
    with tempfile.TemporaryDirectory(prefix="fitserve-add-") as folder:
        graph, saved = Path(folder, "graph.onnx"), Path(folder, "rows.npz")
        graph.write_bytes(content)
        np.savez(saved, *(rows[tensor.name] for tensor in inputs))
        while left:
            cases = [_empty_shapes(inputs, rows, group) for group in left]
            task = {
                "graph": str(graph),
                "rows": str(saved),
                "names": [tensor.name for tensor in inputs],
                "cases": cases,
            }
            begun, failed = _run(json.dumps(task))
            if not failed:
                break
            if begun:
                ended.append(left[begun - 1])
            left = left[begun:] if begun else []
    return ended


def _run(task: str) -> tuple[int, bool]:
    """Run the program; return how many cases it has begun, and whether it was ended."""
    program = str(Path(__file__).with_name("empty_run.py"))
    try:
        done = subprocess.run(  # noqa: S603 - a program of this package
            [sys.executable, "-P", program],
            input=task, capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as stuck:
        return len((stuck.stdout or b"").splitlines()), True
    return len(done.stdout.splitlines()), done.returncode != 0


def _empty_shapes(
    inputs: Sequence[DeclaredTensor], rows: Arrays, group: tuple[Hashable, ...]
) -> dict[str, list[int]]:
    """Return the shapes of the inputs that are empty if these dimensions are."""
    shapes = {
        tensor.name: [
            0 if axis and dimension_key(tensor, axis) in group else size
            for axis, size in enumerate(rows[tensor.name].shape)
        ]
        for tensor in inputs
    }
    return {name: shape for name, shape in shapes.items() if 0 in shape}
