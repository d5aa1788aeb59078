"""The extension `classification`: an output as its largest values, each with index and label.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import TensorSpec
from service.errors import BadInputError


def classified(
    spec: TensorSpec, values: NDArray[Any], top: int
) -> tuple[tuple[int, ...], list[str]]:
    """The BYTES tensor that stands for an output: its shape, and its texts in row-major order.

    One list of classes for each row; for a network of a fixed batch, whose first dimension says
    nothing of rows to a client, one for the whole output.

    Args:
        spec: of the output, with the labels of its classes.
        values: [rows, …]; what stands behind the first axis counts as one row of classes.
        top: how many classes, at least 1; a row with fewer values gives all.

    Raises:
        BadInputError: there are no values.
    """
    if values.size == 0:
        raise BadInputError(
            f"The output {spec.name!r} holds no values here, so no classes: "
            "ask for it without 'classification'."
        )
    if spec.shape[0] != -1:
        (found,) = classes(values.reshape(1, -1), spec.labels, top)
        return (len(found),), found
    rows = classes(values, spec.labels, top)
    return (len(rows), len(rows[0])), [text for row in rows for text in row]


def classes(values: NDArray[Any], labels: Sequence[str] | None, top: int) -> list[list[str]]:
    """The `top` largest values of each row, largest first, each as `value:index` or with its label.

    Values are compared and written in their own datatype: whole numbers with all their digits,
    floats with six decimals, truth values as 0 and 1. Of equal ones the first comes first; what is
    no number comes last.

    Args:
        values: [rows, …], not empty; what stands behind the first axis counts as one row.
        labels: of the classes, where they have some.
        top: how many, at least 1; a row with fewer gives all.
    """
    rows = values.reshape(len(values), -1)
    is_float = rows.dtype.kind == "f"
    # ~ turns the order of whole numbers round, where - leaves the range.
    order = np.argsort(-rows if is_float else ~rows, axis=1, kind="stable")[:, :top]
    shown = "{:f}:{}" if is_float else "{:d}:{}"
    return [
        [
            shown.format(value, index)
            + (f":{labels[index]}" if labels and index < len(labels) else "")
            for value, index in zip(row[indices].tolist(), indices.tolist(), strict=True)
        ]
        for row, indices in zip(rows, order, strict=True)
    ]
