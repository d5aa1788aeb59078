"""The sizes at which ONNX Runtime ends the process, or returns uninitialized memory.

Some operators end the process on an empty tensor, such as a GRU over no steps; others leave their
output as they find it in the memory, such as a product of integers over no columns. The graph is
therefore computed in another process first (`trial_run.py`): with the samples, with empty inputs,
and at small sizes of its free dimensions.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import AddError
from models.kinds.batch_axes import Axes, network_layout, shape_of_network
from models.package.card import WEIGHTS_FILE
from models.runtimes.onnx_library import Weights
from models.runtimes.runtime import Arrays, DeclaredTensor
from models.sources.free_sizes import dimension_key, free_dimensions

MAX_PAIRS = 10
"""Number of pairs of dimensions that are tested; more would take too long."""
SMALL_SIZES = (1, 2, 3)
"""Of all free dimensions at once; an inner tensor may be empty at a small size."""
RUN_SECONDS = 60.0
"""An empty case without an end counts as one that ended the process."""

Shapes = Mapping[str, Sequence[int]]
Outcome = Literal["computed", "ended", "uninitialized", "not finished"]


def require_safe(
    file: str,
    content: bytes,
    inputs: Sequence[DeclaredTensor],
    rows: Arrays,
    axes: Axes,
    weights: Weights | None = None,
) -> Mapping[str, tuple[int, ...]]:
    """Check that the graph is safe to compute, and return the axes that must not be empty.

    Each free dimension is tested with the size 0 by itself, in pairs, and with all others.

    Args:
        file: the name of the ONNX file, for errors.
        content: the ONNX file.
        inputs: as the graph declares them; dimensions of one name have one size. Here and in
            the rows and the result, the first axis of each is that of the rows.
        rows: valid inputs by name.
        axes: the axis of the rows in the graph, by input.
        weights: the content of the file beside the ONNX file, if it has one.

    Returns:
        The unsafe axes by input.

    Raises:
        AddError: the graph is not safe to compute at a size that is not empty.
    """
    free = free_dimensions(inputs, rows)
    pairs = list(combinations(free, 2))[:MAX_PAIRS]
    groups = [*((key,) for key in free), *pairs, *([tuple(free)] if len(free) > 2 else [])]
    full = [_resized(inputs, rows, {})]
    full += [_resized(inputs, rows, dict.fromkeys(free, size)) for size in SMALL_SIZES if free]
    empty = [_resized(inputs, rows, dict.fromkeys(group, 0)) for group in groups]
    outcomes = _outcomes(content, inputs, rows, [*full, *empty], axes, weights)
    for shapes, outcome in zip(full, outcomes, strict=False):
        if outcome in _DEFECTS:
            listed = ", ".join(f"{list(shape)} of {name}" for name, shape in shapes.items())
            raise AddError(
                f"{file}: for {listed}, it {_DEFECTS[outcome]}: ONNX Runtime has a defect in one "
                "of its operators; export the network with another opset, or without that operator"
            )
    unsafe: set[Hashable] = set()
    for group, outcome in zip(groups, outcomes[len(full) :], strict=True):
        # Dimensions may be safe one by one, and not together.
        if outcome != "computed" and not unsafe & {*group}:
            unsafe.update(group)
    unsafe_axes = {
        tensor.name: tuple(
            axis for axis in range(1, len(tensor.shape)) if dimension_key(tensor, axis) in unsafe
        )
        for tensor in inputs
    }
    return {name: axes for name, axes in unsafe_axes.items() if axes}


_WITHOUT_CACHE = "glibc.malloc.tcache_count=0"
"""The cache of a thread hands memory out as it is, and not filled as the program asks for."""
_HARMLESS = (0, 1, -9)
"""Exit codes without a defect of the graph: success, an error of Python, and a full memory."""
_DEFECTS: Mapping[Outcome, str] = {
    "ended": "ends the process that computes it",
    "uninitialized": "returns uninitialized memory",
}


def _resized(
    inputs: Sequence[DeclaredTensor], rows: Arrays, sizes: Mapping[Hashable, int]
) -> Shapes:
    """Return the shapes of all inputs, with these sizes of free dimensions."""
    return {
        tensor.name: [
            sizes.get(dimension_key(tensor, axis), size) if 0 < axis < len(tensor.shape) else size
            for axis, size in enumerate(rows[tensor.name].shape)
        ]
        for tensor in inputs
    }


def _outcomes(
    content: bytes,
    inputs: Sequence[DeclaredTensor],
    rows: Arrays,
    cases: Sequence[Shapes],
    axes: Axes,
    weights: Weights | None,
) -> list[Outcome]:
    """Return what happened at the shapes of each case."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="fitserve-add-") as folder:
        graph, saved = Path(folder, "graph.onnx"), Path(folder, "rows.npz")
        graph.write_bytes(content)
        if weights is not None:
            graph.with_name(WEIGHTS_FILE).write_bytes(weights)
        arrays = (network_layout(rows[tensor.name], axes[tensor.name]) for tensor in inputs)
        np.savez(saved, *map(_savable, arrays))
        while len(outcomes) < len(cases):
            task = {
                "graph": str(graph),
                "rows": str(saved),
                "names": [tensor.name for tensor in inputs],
                "cases": [
                    {name: shape_of_network(shape, axes[name]) for name, shape in case.items()}
                    for case in cases[len(outcomes) :]
                ],
            }
            lines, ending = _run(json.dumps(task))
            finished = lines if ending == "computed" else lines[:-1]
            outcomes += ["uninitialized" if "?" in line else "computed" for line in finished]
            if ending == "computed":
                break
            if not lines:  # no case has begun
                outcomes += ["computed"] * (len(cases) - len(outcomes))
            else:
                outcomes.append(ending)
    return outcomes


def _savable(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array that is saved without pickle: texts in a dtype of fixed length."""
    return array.astype("U") if array.dtype == object else array


def _run(task: str) -> tuple[list[str], Outcome]:
    """Run the program; return a line for each case that has begun, and how the program ended."""
    program = str(Path(__file__).with_name("trial_run.py"))
    try:
        completed = subprocess.run(  # noqa: S603 - a program of this package
            [sys.executable, "-P", program],
            input=task, capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
            env={**os.environ, "GLIBC_TUNABLES": _WITHOUT_CACHE},
        )  # fmt: skip
    except subprocess.TimeoutExpired as stuck:
        return (stuck.stdout or b"").decode().splitlines(), "not finished"
    ending: Outcome = "ended"
    if completed.returncode in _HARMLESS:
        ending = "not finished" if completed.returncode else "computed"
    return completed.stdout.splitlines(), ending
