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
    datatype_of,
    open_graph,
    open_module,
    read_file,
)
from models.package import ModelPackage, require_writable, write_package
from models.parity import (
    ABSOLUTE_TOLERANCE,
    BATCH_SIZES,
    RELATIVE_TOLERANCE,
    ParityError,
    prove,
)
from models.repository import ModelRepository
from models.runtimes import Arrays, DeclaredTensor, Runtime, brief
from models.samples import Samples, given_samples, random_samples, read_arrays
from models.varied_rows import computable, varied_rows

EXAMPLE_TOLERANCE = 1e-3
LARGEST_BATCH = 256
"""The rows of the largest batch that is served, unless a setting says otherwise."""
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
        labels: the classes, for every floating-point output with as many columns.
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
    if sample:
        arrays = read_arrays(sample)
        inputs = _input_specs(graph, arrays)
        samples = given_samples(sample, arrays, inputs, graph.fixed_batch)
    else:
        inputs = _input_specs(graph)
        samples = random_samples(inputs, graph.fixed_batch)
    outputs = _output_specs(graph, _answers(graph, samples), inputs, labels)
    card = ModelCard(
        name=name,
        version=ModelRepository(root).next_version(name),
        summary=summary or _origin(graph),
        task=task or ("classification" if any(map(_tells_classes, outputs)) else "other"),
        inputs=inputs,
        outputs=outputs,
        example=_example(graph, samples, inputs, outputs),
        intended_use=intended_use or "Not stated.",
        limits=_limits(inputs, samples),
    )
    mismatch = graph.network.mismatch(card)
    if mismatch:
        raise AddError(
            f"{graph.file}: {mismatch}, since that is what it computes: "
            "export it with the shapes that it computes"
        )
    parity = _prove_rows(graph, samples, outputs)
    if torchscript:
        files[MODEL_FILES["torchscript"]] = read_file(torchscript)
        module = open_module(_shown(torchscript), files[MODEL_FILES["torchscript"]], card)
        parity = _prove_equal(graph, _shown(torchscript), module, samples, outputs)
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
    return bool(relative_difference(found, wanted).max() <= allowed)


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
            tried, advice = "random numbers", "give real rows with --sample FILE.npz"
        raise AddError(f"{graph.file}: it fails on {tried} ({brief(error)}): {advice}") from error
    return answer


# What the card says.


def _input_specs(
    graph: ForeignGraph, arrays: dict[str, NDArray[Any]] | None = None
) -> tuple[TensorSpec, ...]:
    """The inputs that the graph states; where it states no shape, that of the given rows."""
    declared = graph.network.inputs
    names = [tensor.name for tensor in declared]
    if arrays is not None and set(arrays) != set(names):
        raise AddError(
            f"the sample holds {', '.join(arrays) or 'nothing'}, and {graph.file} takes "
            f"{', '.join(names)}: give one array for each input, under its name"
        )
    specs = []
    for tensor in declared:
        shape = tensor.shape or (arrays or {}).get(tensor.name, np.empty(())).shape
        if not shape:
            raise AddError(
                f"{graph.file}: the graph states no shape for the input {tensor.name}: export it "
                "with one, whose first dimension is the batch, or give rows with --sample FILE.npz"
            )
        inner = (size if isinstance(size, int) else -1 for size in shape[1:])
        specs.append(
            TensorSpec(
                name=tensor.name,
                datatype=datatype_of(graph.file, "input", tensor),
                shape=(graph.fixed_batch or -1, *inner),
                meaning="not stated",
            )
        )
    return tuple(specs)


def _output_specs(
    graph: ForeignGraph,
    answers: Arrays,
    inputs: Sequence[TensorSpec],
    labels: Sequence[str],
) -> tuple[TensorSpec, ...]:
    free = any(-1 in spec.shape[1:] for spec in inputs)
    outputs = tuple(
        _output_spec(graph, tensor, answers[tensor.name], free, labels)
        for tensor in graph.network.outputs
    )
    if labels and not any(spec.labels for spec in outputs):
        found = ", ".join(f"{spec.name} {spec.describe()}" for spec in outputs)
        raise AddError(
            f"{graph.file}: {len(labels)} labels fit no output ({found}): "
            "give one --label for each column of the output that tells the classes"
        )
    return outputs


def _output_spec(
    graph: ForeignGraph,
    tensor: DeclaredTensor,
    answers: NDArray[Any],
    free: bool,
    labels: Sequence[str],
) -> TensorSpec:
    """What running showed. Where an input has a free dimension, those of the output stay free."""
    found = answers.shape
    stated = tensor.shape[1:] if len(tensor.shape) == len(found) else (None,) * (len(found) - 1)
    inner = (
        -1 if free and not isinstance(said, int) else size
        for said, size in zip(stated, found[1:], strict=True)
    )
    columns = answers.shape[-1] if answers.ndim > 1 and answers.dtype.kind == "f" else 0
    probabilities = columns > 1 and _are_probabilities(answers)
    return TensorSpec(
        name=tensor.name,
        datatype=datatype_of(graph.file, "output", tensor),
        shape=(graph.fixed_batch or -1, *inner),
        meaning="of each class; a row sums to 1" if probabilities else "not stated",
        minimum=0 if probabilities else None,
        maximum=1 if probabilities else None,
        labels=tuple(labels) if labels and columns == len(labels) else None,
    )


def _are_probabilities(answers: NDArray[Any]) -> bool:
    """Whether the last dimension holds numbers from 0 to 1 that sum to 1."""
    sums = answers.astype(np.float64).sum(axis=-1)
    within = answers.min() >= 0 and answers.max() <= 1 + ABSOLUTE_TOLERANCE
    return bool(within and np.allclose(sums, 1, atol=1e-3))


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


def _limits(inputs: Sequence[TensorSpec], samples: Samples) -> tuple[str, ...]:
    limits = ["How it was fitted and how good it is are not known here."]
    if not samples.real:
        limits.append("Its example and its proof rest on random numbers, not on real data.")
    limits += [
        f"Of {spec.name}, only rows of {list(samples.rows[spec.name].shape[1:])} were tried."
        for spec in inputs
        if -1 in spec.shape[1:]
    ]
    return tuple(limits)


# The proofs.


def _prove_rows(
    graph: ForeignGraph, samples: Samples, outputs: Sequence[TensorSpec]
) -> tuple[ParityRecord, ...]:
    """The proof that a row's answer does not depend on its neighbours, or on when it is asked."""
    try:
        record = _prove(graph.network, graph.network, samples, outputs)
        if samples.fixed_batch is None:
            count = LARGEST_BATCH if samples.row_size < LARGE_ROW else BATCH_SIZES[-1]
            varied = computable(graph.network, varied_rows(samples.rows, count))
            if len(next(iter(varied.values()))) > 1:
                _prove(graph.network, graph.network, Samples(varied, False, None), outputs, count)
        return (record,)
    except ParityError as error:
        raise AddError(
            f"{graph.file}: the answer to a row depends on the rows beside it ({error}): "
            "export the network in evaluation mode, and such that each row is computed for itself"
        ) from error


def _prove_equal(
    graph: ForeignGraph,
    file: str,
    module: Runtime,
    samples: Samples,
    outputs: Sequence[TensorSpec],
) -> tuple[ParityRecord, ...]:
    """The proofs of each file against the other."""
    try:
        return (
            _prove(module, graph.network, samples, outputs),
            _prove(graph.network, module, samples, outputs),
        )
    except ParityError as error:
        raise AddError(
            f"{file}: its answers are not those of {graph.file} ({error}): "
            "export both from one network, in evaluation mode"
        ) from error
    except Exception as error:
        raise AddError(
            f"{file}: it fails on what {graph.file} computes ({brief(error)}): "
            "export both from one network, with the same outputs in the same order"
        ) from error


def _prove(
    reference: Runtime,
    candidate: Runtime,
    samples: Samples,
    outputs: Sequence[TensorSpec],
    largest: int = BATCH_SIZES[-1],
) -> ParityRecord:
    floats = [spec for spec in outputs if spec.dtype.kind == "f"]
    sizes = sorted(
        {samples.fixed_batch or min(size, samples.count) for size in (*BATCH_SIZES, largest)}
    )
    return prove(
        reference,
        candidate,
        samples.rows,
        runtime=candidate.name,
        classification=bool(floats) and all(spec.is_probabilities for spec in floats),
        batch_sizes=sizes,
        reference_batch=samples.fixed_batch or 1,
    )
