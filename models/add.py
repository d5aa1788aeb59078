"""From an ONNX file of any origin to a package: read, run, proved, written.

What the graph does not state is seen by running it, on given rows or on random ones. What cannot
be served is refused in one sentence that says what to change, and nothing is written.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import (
    MODEL_FILES,
    Example,
    ModelCard,
    ParityRecord,
    RecordedTensor,
    Task,
    TensorSpec,
    is_package_name,
)
from models.differences import relative_difference, tolerated
from models.foreign import (
    MAX_ONNX_BYTES,
    AddError,
    ForeignGraph,
    open_graph,
    open_module,
    read_file,
)
from models.free_sizes import other_sizes
from models.indices import index_ranges
from models.labels import require_agreement
from models.package import ModelPackage, require_writable, write_package
from models.parity import BATCH_SIZES, RELATIVE_TOLERANCE
from models.proofs import ROWS_OF_OTHER_SIZES, prove_equal, prove_rows
from models.ranges import InputRange, with_ranges
from models.repository import ModelRepository
from models.runtimes import Arrays, brief
from models.samples import Samples, given_samples, random_samples, read_arrays
from models.script_mixing import script_mixing
from models.specs import input_specs, output_specs

EXAMPLE_TOLERANCE = 1e-3
REPEATED = 8
"""Of the rows, so many are computed twice: dropout may leave one as it was."""
LARGE_ROW = 10_000
"""Of rows with so many numbers the example holds one, of smaller ones two."""


def add(
    root: Path,
    name: str,
    onnx: Path,
    *,
    torchscript: Path | None = None,
    sample: Path | None = None,
    labels: Sequence[str] = (),
    ranges: Sequence[InputRange] = (),
    task: Task | None = None,
    summary: str | None = None,
    intended_use: str | None = None,
) -> ModelPackage:
    """Make the next version of package `name` under `root` from an ONNX file.

    Args:
        root: the repository.
        name: of the package.
        onnx: the ONNX file, its weights inside.
        torchscript: the same network as TorchScript, its arguments named as the graph's inputs
            and its results in the order of the graph's outputs. Loading it runs the code in it.
        sample: an .npz file with two or more rows of every input, under its name; else rows are
            random.
        labels: the classes, for every output with as many columns: those of floating-point numbers,
            or, where none has as many, of whole numbers.
        ranges: of the inputs whose values must lie in one; random rows are drawn from it. By
            default, an input of places in a constant table takes those that it has.
        task: by default `classification` where an output has labels or is probabilities, else
            `other`.
        summary: of the card.
        intended_use: of the card.

    Raises:
        AddError: a file cannot be read, served or proved, or none can be written; nothing was
            written.
        PackageError: the folder of the package cannot be read, or its version was taken meanwhile.
    """
    if not is_package_name(name):
        raise AddError(
            f"the name {name!r} must be 1 to 100 letters, digits, '-' or '_', "
            "and begin with a letter or digit"
        )
    _require_text({"--label": labels, "--summary": [summary], "--intended-use": [intended_use]})
    try:
        require_writable(root)
    except OSError as error:
        raise AddError(_unwritable(root, error)) from error
    files = {MODEL_FILES["onnx"]: read_file(onnx, MAX_ONNX_BYTES)}
    graph = open_graph(_shown(onnx), files[MODEL_FILES["onnx"]])
    given = {one.name for one in ranges}
    places = [one for one in index_ranges(files[MODEL_FILES["onnx"]]) if one.name not in given]
    ranges = [*ranges, *places]
    if sample:
        arrays = read_arrays(sample)
        inputs = with_ranges(input_specs(graph, arrays), ranges)
        samples = given_samples(sample, arrays, inputs, graph.fixed_batch)
    else:
        inputs = with_ranges(input_specs(graph), ranges)
        samples = random_samples(inputs, graph.fixed_batch)
    few = samples.resized(graph.fixed_batch or min(samples.count, ROWS_OF_OTHER_SIZES))
    others = other_sizes(graph.network, graph.network.inputs, few, graph.fixed_batch or 1)
    answers = _answers(graph, samples)
    outputs = output_specs(graph, answers, inputs, labels)
    require_agreement(graph.file, answers, outputs)
    card = ModelCard(
        name=name,
        version=ModelRepository(root).next_version(name),
        summary=summary or _origin(graph),
        task=task or ("classification" if any(map(_tells_classes, outputs)) else "other"),
        inputs=inputs,
        outputs=outputs,
        example=_example(graph, samples, inputs, outputs),
        intended_use=intended_use or "Not stated.",
        limits=_limits(inputs, samples, others),
    )
    mismatch = graph.network.mismatch(card)
    if mismatch:
        raise AddError(
            f"{graph.file}: {mismatch}, since that is what it computes: "
            "clear the shapes that the graph states for its outputs, with "
            f"m = onnx.load({graph.file!r}); [o.type.tensor_type.ClearField('shape') for o in "
            f"m.graph.output]; onnx.save(m, {graph.file!r})"
        )
    record, mixing = prove_rows(graph, files[MODEL_FILES["onnx"]], samples, others, outputs)
    parity: tuple[ParityRecord, ...] = (record,)
    if torchscript:
        files[MODEL_FILES["torchscript"]] = read_file(torchscript)
        module = open_module(_shown(torchscript), files[MODEL_FILES["torchscript"]], card)
        mixing = mixing or script_mixing(module.graph)
        parity = prove_equal(
            graph, _shown(torchscript), module, samples, others, outputs, whole=mixing is not None
        )
    if mixing:
        limits = (*card.limits, _served_alone(mixing))
        card = card.model_copy(update={"batching": "none", "limits": limits})
    try:
        return write_package(root, card.model_copy(update={"parity": parity}), files)
    except OSError as error:
        raise AddError(_unwritable(root, error)) from error


def _require_text(given: Mapping[str, Sequence[str | None]]) -> None:
    """Check that what was typed can be written: bytes that are no UTF-8 arrive as half characters.

    Raises:
        AddError: it cannot.
    """
    for option, texts in given.items():
        for text in texts:
            if text is not None and text != _escaped(text):
                raise AddError(f"{option} holds {text!r:.100}, which is no UTF-8: give it as UTF-8")


def _shown(file: Path) -> str:
    return _escaped(file.name)


def _escaped(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _unwritable(root: Path, error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    return f"the repository {root}: packages cannot be written there ({reason})"


def _answers(graph: ForeignGraph, samples: Samples) -> Arrays:
    """The answers to all rows, each computed alone if the network can.

    Raises:
        AddError: it is not row by row that the network computes, or not the same each time.
    """
    parts = samples.smallest
    batch, size = _run(graph, samples, parts[0]), graph.fixed_batch
    alone = batch
    if size is None:
        size = BATCH_SIZES[1]
        try:
            batch = graph.network(
                {name: row.repeat(size, axis=0) for name, row in parts[0].items()}
            )
        except Exception as error:
            raise AddError(
                f"{graph.file}: it computes one row and fails on {size} ({brief(error)}): export "
                "it with a dynamic batch, or with the batch size that it can compute in its shapes"
            ) from error
    for name, array in batch.items():
        if array.ndim == 0 or len(array) != size:
            raise AddError(
                f"{graph.file}: the output {name} is {list(array.shape)} for a batch of {size}: "
                "export it with the batch as the first dimension of every output"
            )
        if 0 in array.shape and all(rows.size for rows in samples.rows.values()):
            raise AddError(
                f"{graph.file}: the output {name} is {list(array.shape[1:])} for each row, which "
                "holds no number: export it without"
            )
        if graph.fixed_batch is None and alone[name].shape != (1, *array.shape[1:]):
            raise AddError(
                f"{graph.file}: the output {name} is {list(alone[name].shape)} for one row and "
                f"{list(array.shape)} for {size}: export it with the batch as the first dimension "
                "of every output, also where that is 1"
            )
    answers = [_run(graph, samples, part) for part in parts]
    repeated = [graph.network(part) for part in parts[:REPEATED]]
    for name in repeated[0]:
        if len({answer[name].shape for answer in answers}) > 1:
            raise AddError(
                f"{graph.file}: the shape of the output {name} differs from row to row: "
                "leave it out, or pad it to one shape"
            )
        if not all(map(_same, (one[name] for one in repeated), (one[name] for one in answers))):
            raise AddError(
                f"{graph.file}: the output {name} differs when the same row is computed again: "
                "export the network in evaluation mode, without dropout or random numbers"
            )
    return {name: np.concatenate([answer[name] for answer in answers]) for name in repeated[0]}


def _same(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    if wanted.dtype.kind != "f":
        return np.array_equal(found, wanted)
    allowed = tolerated(RELATIVE_TOLERANCE, wanted.dtype)
    return bool(relative_difference(found, wanted).max(initial=0.0) <= allowed)


def _run(graph: ForeignGraph, samples: Samples, rows: Arrays) -> Arrays:
    """What the network answers to some of the samples; it must answer, with finite numbers."""
    try:
        answer = graph.network(rows)
        for name, array in answer.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} is infinite or NaN")
    except Exception as error:
        if samples.real:
            tried, advice = "the sample", "give rows that it can compute"
        else:
            tried = "random numbers"
            advice = (
                "give real rows with --sample FILE.npz, or the values that it takes with "
                "--range INPUT=LOW:HIGH"
            )
        raise AddError(f"{graph.file}: it fails on {tried} ({brief(error)}): {advice}") from error
    return answer


def _tells_classes(spec: TensorSpec) -> bool:
    return spec.labels is not None or spec.is_probabilities


def _example(
    graph: ForeignGraph,
    samples: Samples,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Example:
    rows = samples.resized(graph.fixed_batch or (1 if samples.row_size >= LARGE_ROW else 2))
    answers = graph.network(rows)
    return Example(
        inputs={spec.name: RecordedTensor.of(spec.datatype, rows[spec.name]) for spec in inputs},
        outputs={
            spec.name: RecordedTensor.of(spec.datatype, answers[spec.name]) for spec in outputs
        },
        tolerance=EXAMPLE_TOLERANCE,
    )


def _origin(graph: ForeignGraph) -> str:
    producer = graph.network.producer
    return f"Added from {graph.file}" + (f", which {producer} wrote." if producer else ".")


def _served_alone(mixing: str) -> str:
    return (
        "Each request is computed alone, as it came, since it is not proved that a row's answer "
        f"does not depend on the rows beside it: {mixing}."
    )


def _limits(
    inputs: Sequence[TensorSpec], samples: Samples, others: Sequence[Arrays]
) -> tuple[str, ...]:
    limits = ["How it was fitted and how good it is are not known here."]
    if not samples.real:
        limits.append("Its example and its proof rest on random numbers, not on real data.")
    for spec in inputs:
        if -1 in spec.shape[1:]:
            shapes = [rows[spec.name].shape[1:] for rows in (samples.rows, *others)]
            tried = ", ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
            limits.append(f"Of {spec.name}, only rows of {tried} were tried.")
    return tuple(limits)
