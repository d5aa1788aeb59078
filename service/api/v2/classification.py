"""The extension `classification`: the largest values of an output, each with index and label.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kinds.tensor_spec import TensorSpec
from service.errors import BadInputError


def classified(
    spec: TensorSpec, values: NDArray[Any], top: int
) -> tuple[tuple[int, ...], list[str]]:
    """Return the BYTES tensor that replaces an output: its shape, and its texts in row-major order.

    There is one list of classes per row. A network with a fixed batch, or without the batch as the
    first dimension of the output, has one list for the whole output.

    Args:
        spec: of the output, with the labels of its classes.
        values: [rows, …]; the dimensions after the first are flattened to one row of classes.
        top: the number of classes, at least 1; a row with fewer values gives all.

    Raises:
        BadInputError: the output holds no values.
    """
    if values.size == 0:
        raise BadInputError(
            f"The output {spec.name!r} holds no values here, so no classes: "
            "ask for it without 'classification'."
        )
    if spec.batch_axis != 0 or spec.shape[0] != -1:
        (found,) = classes(values.reshape(1, -1), spec.labels, top)
        return (len(found),), found
    rows = classes(values, spec.labels, top)
    return (len(rows), len(rows[0])), [text for row in rows for text in row]


def classes(values: NDArray[Any], labels: Sequence[str] | None, top: int) -> list[list[str]]:
    """Return the `top` largest values of each row, descending, as `value:index[:label]`.

    Values are compared and written in their own datatype: whole numbers with all digits, floats
    with six decimals, booleans as 0 and 1. Equal values keep their order; NaN is last.

    Args:
        values: [rows, …], not empty; the dimensions after the first are flattened to one row.
        labels: of the classes, if they have labels.
        top: the number of classes, at least 1; a row with fewer gives all.
    """
    rows = values.reshape(len(values), -1)
    is_float = rows.dtype.kind == "f"
    # ~ reverses the order of whole numbers without overflow, unlike -.
    order = np.argsort(-rows if is_float else ~rows, axis=1, kind="stable")[:, :top]
    template = "{:f}:{}" if is_float else "{:d}:{}"
    return [
        [
            template.format(value, index)
            + (f":{labels[index]}" if labels and index < len(labels) else "")
            for value, index in zip(row[indices].tolist(), indices.tolist(), strict=True)
        ]
        for row, indices in zip(rows, order, strict=True)
    ]
