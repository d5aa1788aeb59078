"""Networks that detect as many objects in a batch of pictures as the pixels say."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from layout_networks import node, onnx_graph
from numpy.typing import NDArray
from onnx import TensorProto as T

SIDE = 4
LEAST = 0.5
"""The least score of a detection."""
DETECTIONS = {"detections": (T.FLOAT, ["found", 7])}


def corners() -> NDArray[np.float32]:
    """Return a box for each pixel, [1, 16, 4], of which none overlap."""
    places = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1)
    flat = places.reshape(1, SIDE * SIDE, 2)
    return np.concatenate([flat, flat + 1], -1).astype(np.float32)


def detecting(
    after: Sequence[Any],
    outputs: Any,
    *,
    before: Sequence[Any] = (),
    pixels: str = "x",
    most: int = 16,
    **constants: NDArray[Any],
) -> bytes:
    """Return a graph that makes boxes and scores of pixels, and selects some.

    Args:
        after: the nodes after the selection `found` [M, (row, class, box)]; `place` is [M, (row,
            box)], `boxes` [N, 16, 4], `values` [N, 16, 1].
        outputs: of the graph.
        before: nodes in front.
        pixels: the value that has the pixels, [N, 1, 4, 4].
        most: of the entries of a row.
        constants: further ones.
    """
    return onnx_graph(
        [
            *before,
            node("Reshape", [pixels, "flat"], ["scores"]),
            node("ReduceMean", ["scores", "last"], ["mean"], keepdims=1),
            node("Add", ["corners", "mean"], ["boxes"]),
            node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["found"]),
            node("Transpose", ["scores"], ["values"], perm=[0, 2, 1]),
            node("Gather", ["found", "row_and_box"], ["place"], axis=1),
            *after,
        ],
        {"x": (T.FLOAT, ["N", 1, SIDE, SIDE])},
        outputs,
        flat=np.array([0, 1, 16]), last=np.array([2]), corners=corners(), most=np.array([most]),
        overlap=np.float32([0.5]), least=np.float32([LEAST]), row_and_box=np.array([0, 2]),
        **constants,
    )  # fmt: skip


AS_YOLO: Sequence[Any] = (
    node("GatherND", ["boxes", "place"], ["box"]),
    node("GatherND", ["values", "place"], ["score"]),
    node("Slice", ["found", "start", "end", "one"], ["labels"]),
    node("Gather", ["found", "first"], ["rows"], axis=1),
    node("Unsqueeze", ["rows", "one"], ["row_column"]),
    node("Cast", ["row_column"], ["row"], to=T.FLOAT),
    node("Cast", ["labels"], ["label"], to=T.FLOAT),
    node("Concat", ["row", "box", "label", "score"], ["detections"], axis=1),
)
"""[M, (row, x0, y0, x1, y1, class, score)]."""
YOLO_CONSTANTS = {
    "start": np.array([1]), "end": np.array([2]), "one": np.array([1]), "first": np.array(0),
}  # fmt: skip
YOLO = detecting(AS_YOLO, DETECTIONS, **YOLO_CONSTANTS)
"""As YOLOv7 is exported with non-maximum suppression inside."""


def flattened(
    *,
    size: str = "boxes_of_a_row",
    casts: Sequence[Any] = (),
    index: str = "index",
    **constants: NDArray[Any],
) -> bytes:
    """Return YOLO with the boxes picked from all rows one after another, as torch once exported it.

    Args:
        size: the value by which the place of the row is multiplied.
        casts: nodes behind the sum of the places, which is `index`.
        index: the value by which boxes are picked.
        constants: further ones.
    """
    nodes = [
        node("Gather", ["found", "first"], ["row_place"], axis=1),
        node("Gather", ["found", "two"], ["box_place"], axis=1),
        node("Shape", ["boxes"], ["sizes"]),
        node("Gather", ["sizes", "one"], ["boxes_of_a_row"], axis=0),
        node("Flatten", ["boxes"], ["all_boxes"], axis=2),
        node("Mul", ["row_place", size], ["start_of_row"]),
        node("Add", ["box_place", "start_of_row"], ["index"]),
        *casts,
        node("Gather", ["all_boxes", index], ["picked"], axis=0),
        node("Shape", [index], ["count"]),
        node("Concat", ["count", "four"], ["shape"], axis=0),
        node("Reshape", ["picked", "shape"], ["box"]),
        *AS_YOLO[1:],
    ]
    return detecting(
        nodes, DETECTIONS, **YOLO_CONSTANTS, **constants, two=np.array(2), four=np.array([4])
    )


FLAT = flattened()

APART = detecting(
    [
        node("GatherND", ["boxes", "place"], ["at"]),
        node("GatherND", ["values", "place"], ["value"]),
        node("Mul", ["value", "hundred"], ["percent"]),
        node("Split", ["found", "widths"], ["batch_ids", "rest"], axis=1),
        node("ReduceMean", ["x", "inner"], ["brightness"], keepdims=0),
    ],
    {
        "at": (T.FLOAT, ["found", 4]),
        "percent": (T.FLOAT, ["found", 1]),
        "batch_ids": (T.INT64, ["found", None]),
        "brightness": (T.FLOAT, ["N", 1]),
    },
    hundred=np.float32([[100]]), widths=np.array([1, 2]), inner=np.array([2, 3]),
)  # fmt: skip
"""Boxes, scores and the index as outputs of their own, and an output of one row for each row."""

LIT = onnx_graph(
    [
        node("Greater", ["x", "least"], ["lit"]),
        node("NonZero", ["lit"], ["axes_first"]),
        node("Transpose", ["axes_first"], ["places"]),
        node("GatherND", ["x", "places"], ["levels"]),
    ],
    {"x": (T.FLOAT, ["N", 1, SIDE, SIDE])},
    {"places": (T.INT64, [None, 4]), "levels": (T.FLOAT, [None])},
    least=np.float32(LEAST),
)
"""The places of bright pixels, with the row in column 0, and their levels."""


def _mixed(name: str) -> bytes:
    """Return a network whose entries depend on other rows, or whose index does not tell."""
    constants: dict[str, NDArray[Any]] = dict(YOLO_CONSTANTS)
    if name == "pixels less their mean over the batch":
        before = [
            node("ReduceMean", ["x", "rows_axis"], ["batch_mean"], keepdims=1),
            node("Mul", ["batch_mean", "tiny"], ["little"]),
            node("Sub", ["x", "little"], ["pixels"]),
        ]
        constants |= {"rows_axis": np.array([0]), "tiny": np.float32([1e-9])}
        return detecting(AS_YOLO, DETECTIONS, before=before, pixels="pixels", **constants)
    if name == "scores less the best of the batch":
        *others, last = AS_YOLO
        nodes = [
            *others[:2],
            node("ReduceMax", ["score"], ["best"], keepdims=1),
            node("Mul", ["best", "tiny"], ["little"]),
            node("Sub", ["score", "little"], ["less"]),
            *others[2:],
            node("Concat", ["row", "box", "label", "less"], [*last.output], axis=1),
        ]
        return detecting(nodes, DETECTIONS, **constants, tiny=np.float32([[1e-9]]))
    if name == "the row in another column, too":
        nodes = [
            *AS_YOLO[:-1],
            node("Concat", ["row", "box", "row", "score"], ["detections"], axis=1),
        ]
        return detecting(nodes, DETECTIONS, **constants)
    if name == "the number of entries":
        nodes = [
            *AS_YOLO[:-1],
            node("Shape", ["found"], ["sizes"]),
            node("Slice", ["sizes", "zero", "one", "zero"], ["many"]),
            node("Cast", ["many"], ["count"], to=T.FLOAT),
            node("Mul", ["count", "nothing"], ["none"]),
            node("Add", ["score", "none"], ["same"]),
            node("Concat", ["row", "box", "label", "same"], ["detections"], axis=1),
        ]
        constants |= {"zero": np.array([0]), "nothing": np.float32([0])}
        return detecting(nodes, DETECTIONS, **constants)
    if name == "the row itself":
        nodes = [
            *AS_YOLO[:-1],
            node("Mul", ["row", "tiny"], ["little"]),
            node("Add", ["score", "little"], ["more"]),
            node("Concat", ["row", "box", "label", "more"], ["detections"], axis=1),
        ]
        return detecting(nodes, DETECTIONS, **constants, tiny=np.float32([[1e-9]]))
    if name == "the best entries of the batch":
        nodes = [
            *AS_YOLO[:-1],
            node("Concat", ["row", "box", "label", "score"], ["all"], axis=1),
            node("Slice", ["all", "zero", "many", "zero"], ["detections"]),
        ]
        constants |= {"zero": np.array([0]), "many": np.array([10_000])}
        return detecting(nodes, DETECTIONS, **constants)
    if name == "boxes at places of another number of boxes":
        return flattened(size="eight", eight=np.array(8))
    if name == "places among all boxes in single precision":
        casts = [
            node("Cast", ["index"], ["rounded"], to=T.FLOAT),
            node("Cast", ["rounded"], ["whole"], to=T.INT64),
        ]
        return flattened(casts=casts, index="whole")
    if name == "scores as UINT32":
        nodes = [
            *AS_YOLO[:-1],
            node("Cast", ["score"], ["whole"], to=T.UINT32),
            node("Cast", ["whole"], ["number"], to=T.FLOAT),
            node("Mul", ["number", "nothing"], ["none"]),
            node("Add", ["score", "none"], ["same"]),
            node("Concat", ["row", "box", "label", "same"], ["detections"], axis=1),
        ]
        return detecting(nodes, DETECTIONS, **constants, nothing=np.float32([0]))
    if name == "the row in eight bits":
        nodes = [
            *AS_YOLO[:5],
            node("Cast", ["row_column"], ["small"], to=T.UINT8),
            node("Cast", ["small"], ["row"], to=T.FLOAT),
            *AS_YOLO[6:],
        ]
        return detecting(nodes, DETECTIONS, **constants)
    # Boxes of the row before: each entry picks by another index than its own row.
    nodes = [
        node("Gather", ["found", "box_and_box"], ["wrong"], axis=1),
        node("GatherND", ["boxes", "wrong"], ["box"]),
        *AS_YOLO[1:],
    ]
    return detecting(nodes, DETECTIONS, **constants, box_and_box=np.array([1, 2]))


MIXED = {
    name: _mixed(name)
    for name in (
        "pixels less their mean over the batch",
        "scores less the best of the batch",
        "the row in another column, too",
        "the number of entries",
        "the row itself",
        "the best entries of the batch",
        "boxes of another row",
        "boxes at places of another number of boxes",
        "the row in eight bits",
        "places among all boxes in single precision",
        "scores as UINT32",
    )
}
"""Networks whose divided entries are not those of the rows alone, though trials may not show it."""


def pictures(rows: int, seed: int = 0) -> NDArray[np.float32]:
    """Return pictures with unlike numbers of pixels above `LEAST`, some with none."""
    random = np.random.default_rng(seed)
    levels = random.uniform(size=(rows, 1, SIDE, SIDE)) * random.uniform(0.3, 1, (rows, 1, 1, 1))
    return levels.astype(np.float32)
