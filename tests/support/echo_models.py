"""Models that return their inputs, as packages of this service and for Triton."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from onnx import helper

from models.kinds.tensor_spec import Datatype, TensorSpec
from models.package.card import Example, ModelCard, RecordedTensor
from models.package.model_package import write_package


class Echo(NamedTuple):
    """A model whose outputs are its inputs, in order.

    If `batch` is None, `shapes` are those of one row. Otherwise they are those of the whole tensor,
    and the model computes exactly this number of rows at a time.
    """

    name: str
    datatypes: Sequence[Datatype]
    shapes: Sequence[tuple[int, ...]]
    batch: int | None = None
    labels: tuple[str, ...] | None = None

    def specs(self, side: str) -> tuple[TensorSpec, ...]:
        """Return the inputs, `in`, or the outputs, `out`, as in a card."""
        return tuple(
            TensorSpec(
                name=f"{side}{index}",
                datatype=datatype,
                shape=shape if self.batch else (-1, *shape),
                meaning="-",
                labels=self.labels if side == "out" else None,
            )
            for index, (datatype, shape) in enumerate(zip(self.datatypes, self.shapes, strict=True))
        )


_ONE = {"BYTES": "a"}


def write_echo(repository: Path, model: Echo) -> None:
    """Write the model as a package."""
    inputs, outputs = model.specs("in"), model.specs("out")

    def declared(specs: Sequence[TensorSpec]) -> list[object]:
        return [
            helper.make_tensor_value_info(
                spec.name,
                helper.np_dtype_to_tensor_dtype(spec.dtype),
                [
                    f"{spec.name}_{axis}" if size == -1 else size
                    for axis, size in enumerate(spec.shape)
                ],
            )
            for spec in specs
        ]

    nodes = [
        helper.make_node("Identity", [source.name], [target.name])
        for source, target in zip(inputs, outputs, strict=True)
    ]
    graph = helper.make_graph(nodes, "echo", declared(inputs), declared(outputs))
    opsets = [helper.make_opsetid("", 18)]
    network = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    rows = [
        np.full([max(size, 1) for size in spec.shape], _ONE.get(spec.datatype, 1), spec.dtype)
        for spec in inputs
    ]

    def recorded(specs: Sequence[TensorSpec]) -> dict[str, RecordedTensor]:
        return {
            spec.name: RecordedTensor.of(spec.datatype, array)
            for spec, array in zip(specs, rows, strict=True)
        }

    card = ModelCard(
        name=model.name,
        version="1",
        summary="It gives back what it gets.",
        task="other",
        inputs=inputs,
        outputs=outputs,
        example=Example(inputs=recorded(inputs), outputs=recorded(outputs), tolerance=1e-3),
        intended_use="Tests.",
    )
    write_package(repository, card, {"model.onnx": network.SerializeToString()})


_PYTHON = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        found = [
            pb_utils.get_input_tensor_by_name(request, f"in{{place}}").as_numpy()
            for place in range({count})
        ]
        return pb_utils.InferenceResponse(output_tensors=[
            pb_utils.Tensor(f"out{{place}}", array.copy()) for place, array in enumerate(found)
        ])
"""


def write_for_triton(repository: Path, model: Echo, largest: int) -> None:
    """Write the model for Triton's Python backend, with batches of up to `largest` rows."""
    folder = repository / model.name
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").write_text(_PYTHON.format(count=len(model.datatypes)))

    def entries(side: str, keyword: str) -> Iterator[str]:
        for spec, shape in zip(model.specs(side), model.shapes, strict=True):
            labels = f'label_filename: "{spec.name}.txt"' if spec.labels else ""
            if spec.labels:
                (folder / f"{spec.name}.txt").write_text("\n".join(spec.labels) + "\n")
            kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
            yield (
                f'{keyword} [{{ name: "{spec.name}" data_type: TYPE_{kind} '
                f"dims: {json.dumps(shape)} {labels} }}]"
            )

    lines = [
        'backend: "python"',
        f"max_batch_size: {0 if model.batch else largest}",
        *entries("in", "input"),
        *entries("out", "output"),
    ]
    (folder / "config.pbtxt").write_text("\n".join(lines) + "\n")
