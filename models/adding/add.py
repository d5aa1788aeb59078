"""The conversion of a network of any origin to a package: read, run, check, write.

Properties that the graph does not state are found by running it on samples or random rows
(`observed.py`). A network that cannot be served is refused with one sentence of advice, and nothing
is written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.adding.answer_options import AnswerOptions
from models.adding.observed import Asked, Observed, observe
from models.errors import AddError
from models.kinds.tensor_spec import TensorSpec
from models.kinds.tokens import TOKENIZER_FILE
from models.package.card import (
    EXAMPLE_TOLERANCE,
    MODEL_FILES,
    PACKAGE_NAME_RULE,
    WEIGHTS_FILE,
    Example,
    ModelCard,
    RecordedTensor,
    Task,
    is_package_name,
)
from models.package.model_package import ModelPackage, require_writable, write_package
from models.package.repository import ModelRepository
from models.proofs.own_answers import prove_answers, prove_further_answers
from models.proofs.padding_proof import Pad, prove_padding, require_batched, with_varied_rows
from models.proofs.proved_batches import batched_entries, batching
from models.proofs.row_proof import prove_largest, prove_rows
from models.proofs.split_proof import prove_split
from models.proofs.table_proof import prove_table, require_equal_rows, with_example
from models.proofs.text_proof import prove_texts
from models.proofs.torch_file_proof import LeftOutError, equal_module
from models.runtimes.runtime import Runtime
from models.sources.importing import ForeignGraph
from models.sources.max_length import MaxLength, at_sizes
from models.sources.ranges import InputRange
from models.sources.samples import Samples
from models.sources.source import Source, read_source
from models.sources.stated_batch import Stated
from models.sources.table_files import GivenTable

TRIED = Stated()
"""The batch is found by trying."""
LARGE_ROW = 10_000
"""The example has one row if it has at least this many values, else two rows."""


def add(
    root: Path,
    name: str,
    source: Path,
    *,
    torchscript: Path | None = None,
    sample: Path | None = None,
    labels: Sequence[str] = (),
    ranges: Sequence[InputRange] = (),
    max_lengths: Sequence[MaxLength] = (),
    pads: Sequence[Pad] = (),
    masks: Sequence[str] = (),
    batch: Stated = TRIED,
    answer: AnswerOptions = AnswerOptions(),  # noqa: B008
    table: GivenTable | None = None,
    task: Task | None = None,
    summary: str | None = None,
    intended_use: str | None = None,
    progress: Callable[[str], object] = str,
) -> ModelPackage:
    """Make the next version of package `name` under `root` from an ONNX file or an export.

    Args:
        root: the repository.
        name: of the package.
        source: the ONNX file, or the folder of an export (`fitserve.exported`).
        torchscript: the same network as TorchScript, with the names of the graph's inputs as
            arguments and the results in the order of the graph's outputs. Loading runs its code.
        sample: an .npz file with two or more rows of every input by name; random rows by default.
        labels: the classes. They label every output of floating-point numbers with as many columns,
            or else of whole numbers. By default, those that the file names.
        ranges: the valid ranges of inputs; random rows are within them. By default, the range of
            an input that indexes a constant table is the range of the table's indices.
        max_lengths: the largest sizes of free dimensions; by default, they are found by doubling
            those of the samples (`models.sources.max_length`).
        pads: inputs of one free length, and the values with which shorter rows are padded, so that
            rows of unequal lengths share a batch.
        masks: inputs of that length that tell which places are real; they are padded with 0.
        batch: where the network has its batch; by default, that is tried (`models.adding.layouts`).
        answer: how the outputs are answered in the card's terms.
        table: how rows with named columns become the inputs, and rows in these terms.
        task: by default `classification` if an output has labels or is probabilities, else
            `other`.
        summary: for the card.
        intended_use: for the card.
        progress: called with each step before it begins.

    Raises:
        AddError: a file cannot be read or served, or fails a check, or the package cannot be
            written. Nothing is written.
        PackageError: the folder of the package is unreadable, or another process took its version.
    """
    if not is_package_name(name):
        raise AddError(f"the name {name!r} {PACKAGE_NAME_RULE}")
    _require_text({"--label": labels, "--summary": [summary], "--intended-use": [intended_use]})
    try:
        require_writable(root)
    except OSError as error:
        raise AddError(_unwritable(root, error)) from error
    progress("reading the files")
    source_files = read_source(source, torchscript=torchscript, sample=sample, table=table)
    asked = Asked(labels, ranges, max_lengths, pads, masks, batch, answer)
    found = observe(source_files, asked, progress)
    card = ModelCard(
        name=name,
        version=ModelRepository(root).next_version(name),
        summary=summary or _origin(found.graph, found.source),
        task=task or ("classification" if any(map(_tells_classes, found.outputs)) else "other"),
        intended_use=intended_use or "Not stated.",
        **_described(found),
    )
    if mismatch := found.graph.network.mismatch(card):
        raise AddError(
            f"{found.graph.file}: {mismatch}, since that is what it computes: "
            "clear the shapes that the graph states for its outputs, with "
            f"m = onnx.load({found.graph.file!r}); [o.type.tensor_type.ClearField('shape') for o "
            f"in m.graph.output]; onnx.save(m, {found.graph.file!r})"
        )
    card, files = _proved(found, card, progress, padding_is_asked=asked.padding)
    progress("writing the package")
    try:
        return write_package(root, card, files)
    except OSError as error:
        raise AddError(_unwritable(root, error)) from error


def _described(found: Observed) -> Mapping[str, Any]:
    """Return the fields of the card that say what the network is, before the checks."""
    axes, table = found.graph.axes, found.source.table
    example = _example(found)
    rows = len(next(iter(example.inputs.values())).array())
    return {
        "inputs": tuple(spec.in_network(axes.inputs[spec.name]) for spec in found.inputs),
        "outputs": tuple(spec.in_network(axes.outputs[spec.name]) for spec in found.outputs),
        "table": table and with_example(table, rows, found.samples.count),
        "example": example.in_network(axes),
        "optimized": not found.rewritten,
        "limits": (*_limits(found.samples, found.rewritten), *found.source.notes),
    }


def _proved(
    found: Observed,
    card: ModelCard,
    progress: Callable[[str], object],
    *,
    padding_is_asked: bool,
) -> tuple[ModelCard, dict[str, bytes | bytearray]]:
    """Check the network; return its card with the results, and the files of the package.

    Raises:
        AddError: a check fails.
    """
    source, graph, samples, half = found.source, found.graph, found.samples, found.half
    if source.records:
        progress("comparing it with the network's own answers")
    own = (
        *prove_answers(graph, source.records, found.outputs, half=half),
        *prove_further_answers(graph, source.further, found.inputs, found.outputs, half=half),
    )
    progress("checking that rows are independent")
    proof = prove_rows(graph, source.onnx, samples, found.others, found.outputs, half=half)
    card = card.model_copy(update=batching(card, graph, proof, source.onnx))
    if found.padding is not None:
        progress("comparing padded rows with rows alone")
        try:
            require_batched(graph, found.padding, proof)
            tried = with_varied_rows(graph, found.few, samples)
            padded = prove_padding(graph, found.padding, tried, found.outputs, half=half)
        except AddError as error:
            if padding_is_asked:
                raise
            card = _limited(card, f"Texts of unequal lengths are computed one by one: {error}.")
        else:
            own, card = (*own, padded), card.model_copy(update={"padding": found.padding})
    if found.split is not None:
        progress("comparing the entries of rows with those of rows alone")
        divided = prove_split(graph, source.onnx, found.split, samples, half=half)
        own, card = (*own, divided), card.model_copy(update=batched_entries(card, found.split))
    files: dict[str, bytes | bytearray] = {MODEL_FILES["onnx"]: source.onnx}
    if source.weights is not None:
        files[WEIGHTS_FILE] = source.weights
    if source.texts:
        progress("comparing texts with the training library")
        text, equal = prove_texts(graph.file, graph.network, card, source.texts)
        own, card = (equal, *own), card.model_copy(update={"text": text})
        files[TOKENIZER_FILE] = source.texts.tokenizer
    if source.table:
        progress("comparing rows of the table")
        own = (prove_table(graph, card, source.table, half=half), *own)
    parity = (*own, proof.record)
    candidates: dict[str, Runtime] = {graph.file: graph.network}
    if source.torch and found.split is not None:
        card = _limited(
            card, f"The {source.torch.title} is left out: its outputs are not divided among rows."
        )
    elif source.torch:
        progress(f"comparing the {source.torch.title} with it")
        try:
            module, compared = equal_module(
                graph, source.torch, card, samples, found.others, proof, half=half
            )
            if source.table:
                require_equal_rows(graph, source.torch.title, module, card, source.table)
        except LeftOutError as reason:
            card = _limited(card, str(reason))
        else:
            files[MODEL_FILES[source.torch.runtime]] = source.torch.content
            parity = (*own, *compared)
            candidates[source.torch.file] = module
    if found.largest:
        progress("computing the largest sizes")
        one = replace(samples, real=False, rows=samples.resized(graph.fixed_batch or 1))
        one = replace(one, rows=at_sizes(graph.network.inputs, one.rows, found.largest))
        prove_largest(graph, candidates, one, found.outputs, half=half)
    return card.model_copy(update={"parity": parity}), files


def _limited(card: ModelCard, limit: str) -> ModelCard:
    """Return the card with a further limit."""
    return card.model_copy(update={"limits": (*card.limits, limit)})


def _require_text(given: Mapping[str, Sequence[str | None]]) -> None:
    """Check that the texts are UTF-8: Python passes on other bytes as surrogates.

    Raises:
        AddError: a text is not UTF-8.
    """
    for option, texts in given.items():
        for text in texts:
            if text is not None and text != _escaped(text):
                raise AddError(f"{option} holds {text!r:.100}, which is no UTF-8: give it as UTF-8")


def _escaped(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _unwritable(root: Path, error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    return f"the repository {root}: packages cannot be written there ({reason})"


def _tells_classes(spec: TensorSpec) -> bool:
    return spec.labels is not None or spec.is_probabilities


def _example(found: Observed) -> Example:
    graph, samples = found.graph, found.samples
    rows = samples.resized(graph.fixed_batch or (1 if samples.row_size >= LARGE_ROW else 2))
    answers = graph.network(rows)
    return Example(
        inputs={
            spec.name: RecordedTensor.of(spec.datatype, rows[spec.name]) for spec in found.inputs
        },
        outputs={
            spec.name: RecordedTensor.of(spec.datatype, answers[spec.name])
            for spec in found.outputs
        },
        tolerance=max(found.half, EXAMPLE_TOLERANCE),
    )


def _origin(graph: ForeignGraph, source: Source) -> str:
    if source.origin:
        return f"Exported from {source.origin}."
    producer = graph.network.producer
    return f"Added from {graph.file}" + (f", which {producer} wrote." if producer else ".")


def _limits(samples: Samples, rewritten: str | None) -> tuple[str, ...]:
    limits = ["How it was fitted and how good it is are not known here."]
    if not samples.real:
        limits.append("Its example and its proof rest on random numbers, not on real data.")
    if rewritten:
        limits.append(
            "The graph is computed as it is written, since ONNX Runtime computes other outputs "
            f"after its optimizations: {rewritten}."
        )
    return tuple(limits)
