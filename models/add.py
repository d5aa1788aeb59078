"""The conversion of a network of any origin to a package: read, run, check, write.

Properties that the graph does not state are found by running it on samples or random rows. A
network that cannot be served is refused with one sentence of advice, and nothing is written.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from models.answer_options import AnswerOptions
from models.card import (
    EXAMPLE_TOLERANCE,
    MODEL_FILES,
    PACKAGE_NAME_RULE,
    Example,
    ModelCard,
    ParityRecord,
    RecordedTensor,
    Task,
    is_package_name,
)
from models.crashes import crash
from models.differences import HALF_PRECISION
from models.divisions import dangerous_division
from models.free_sizes import dimension_key, other_sizes
from models.graph import is_quantized, load
from models.half_precision import computes_in_half
from models.importing import AddError, ForeignGraph, open_graph, open_module
from models.indices import index_ranges
from models.labels import require_agreement
from models.layout_rows import shared_values, with_rows_first, with_values
from models.layouts import LayoutSearch
from models.max_length import MaxLength, Sizes, at_sizes, given_sizes, largest_sizes, within
from models.package import ModelPackage, require_writable, write_package
from models.padding_proof import (
    Pad,
    planned_padding,
    prove_padding,
    require_batched,
    rows_of_length,
)
from models.picture_proof import with_picture
from models.proof_budget import affordable
from models.proofs import (
    ROWS_OF_OTHER_SIZES,
    RowsProof,
    prove_answers,
    prove_equal,
    prove_largest,
    prove_rows,
    rewriting,
)
from models.ranges import InputRange, with_ranges
from models.repository import ModelRepository
from models.rows_first import RowsFirst
from models.runtimes import (
    Arrays,
    DeclaredTensor,
    Runtime,
)
from models.sample_answers import compute_answers
from models.sample_texts import words_of
from models.samples import Samples, given_samples, random_samples
from models.script_mixing import script_mixing
from models.shared_values import values_matter
from models.sources import Source, TorchFile, read_source
from models.specs import input_specs, output_specs
from models.stated_batch import Stated
from models.tensor_spec import TensorSpec
from models.text_proof import max_tokens_of, prove_texts, text_padding
from models.tokens import TOKENIZER_FILE
from models.torch_runtimes import TorchRuntime
from models.trial_sizes import require_safe

if TYPE_CHECKING:
    import onnx

TRIED = Stated()
"""The batch is found by trying."""
NOT_APART = "it is not proved that a row's answer does not depend on the rows beside it"
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
            those of the samples (`models.max_length`).
        pads: inputs of one free length, and the values with which shorter rows are padded, so that
            rows of unequal lengths share a batch.
        masks: inputs of that length that tell which places are real; they are padded with 0.
        batch: where the network has its batch; by default, that is tried (`models.layouts`).
        answer: how the outputs are answered in the card's terms.
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
    network = read_source(source, torchscript=torchscript, sample=sample)
    labels = labels or network.labels
    opened = open_graph(network.file, network.onnx)
    model = load(network.onnx)
    _require_computable(network.file, model)
    half = computes_in_half(network.onnx)
    given = {one.name for one in ranges}
    ranges = [*ranges, *(one for one in index_ranges(network.onnx) if one.name not in given)]
    is_asked = bool(pads or masks)
    if network.texts:
        max_lengths = max_lengths or [MaxLength(None, max_tokens_of(network.texts))]
        if not is_asked:
            pads, masks = text_padding(network.texts)
    names = {tensor.name for tensor in opened.inputs}
    ranges += [InputRange(mask, 0, 1) for mask in masks if mask in names - given]
    search = LayoutSearch(network.file, opened, network.onnx, model, network.samples, ranges, batch)
    progress("trying sizes in another process")
    words = words_of(model)
    graph = search.first()
    tried = _tried_inputs(graph, network, ranges, max_lengths, batch, words)
    if (settled := search.settled(graph, tried.few)) is not graph:
        graph = settled
        tried = _tried_inputs(graph, network, ranges, max_lengths, batch, words)
    network, inputs, samples, few, max_sizes, nonempty = tried
    samples = affordable(graph.network, samples)
    largest = largest_sizes(graph, network.onnx, few, max_sizes)
    others = other_sizes(graph.network, graph.network.inputs, few, graph.fixed_batch or 1, largest)
    padding = planned_padding(graph, pads, masks, inputs, few, largest)
    if padding is not None:
        others += [dict(rows_of_length(graph, padding, few, size)) for size in padding.lengths]
    others += with_values(graph, few, others, batch)
    progress(f"computing {samples.count} rows")
    answers = compute_answers(graph, samples)
    inputs = tuple(replace(spec, nonempty=nonempty.get(spec.name, ())) for spec in inputs)
    inputs = _with_maxima(inputs, graph.network.inputs, largest)
    if network.pictures:
        inputs = with_picture(graph.file, inputs, network.pictures)
    outputs = output_specs(graph, answers, inputs, labels)
    progress("comparing the graph with its optimized form")
    rewritten = None
    if not is_quantized(model):
        rewritten = rewriting(graph, network.onnx, few, samples, outputs, half=half)
    if rewritten:
        graph = replace(graph, network=graph.opened(network.onnx, optimized=False))
        answers = compute_answers(graph, samples)
        outputs = output_specs(graph, answers, inputs, labels)
    require_agreement(graph.file, answers.outputs, outputs)
    if misfit := answer.misfit(outputs):
        raise AddError(f"{graph.file}: {misfit}")
    outputs = tuple(replace(spec, **answer.of(spec)) for spec in outputs)
    axes = graph.axes
    card = ModelCard(
        name=name,
        version=ModelRepository(root).next_version(name),
        summary=summary or _origin(graph, network),
        task=task or ("classification" if any(map(_tells_classes, outputs)) else "other"),
        inputs=tuple(spec.in_network(axes.inputs[spec.name]) for spec in inputs),
        outputs=tuple(spec.in_network(axes.outputs[spec.name]) for spec in outputs),
        example=_example(graph, samples, inputs, outputs, half=half).in_network(axes),
        optimized=not rewritten,
        intended_use=intended_use or "Not stated.",
        limits=(*_limits(samples, rewritten), *network.notes),
    )
    mismatch = graph.network.mismatch(card)
    if mismatch:
        raise AddError(
            f"{graph.file}: {mismatch}, since that is what it computes: "
            "clear the shapes that the graph states for its outputs, with "
            f"m = onnx.load({graph.file!r}); [o.type.tensor_type.ClearField('shape') for o in "
            f"m.graph.output]; onnx.save(m, {graph.file!r})"
        )
    if network.records:
        progress("comparing it with the network's own answers")
    own = prove_answers(graph, network.records, outputs, half=half)
    progress("checking that rows are independent")
    proof = prove_rows(graph, network.onnx, samples, others, outputs, half=half)
    card = card.model_copy(update=_batching(card, graph, proof, network.onnx))
    if padding is not None:
        progress("comparing padded rows with rows alone")
        try:
            require_batched(graph, padding, proof)
            padded = prove_padding(graph, padding, few, outputs, half=half)
        except AddError as error:
            if is_asked:
                raise
            limit = f"Texts of unequal lengths are computed one by one: {error}."
            card = card.model_copy(update={"limits": (*card.limits, limit)})
        else:
            own, card = (*own, padded), card.model_copy(update={"padding": padding})
    files = {MODEL_FILES["onnx"]: network.onnx}
    if network.texts:
        progress("comparing texts with the training library")
        text, equal = prove_texts(graph.file, graph.network, card, network.texts)
        own, card = (equal, *own), card.model_copy(update={"text": text})
        files[TOKENIZER_FILE] = network.texts.tokenizer
    parity = (*own, proof.record)
    candidates: dict[str, Runtime] = {graph.file: graph.network}
    if network.torch:
        progress(f"comparing the {network.torch.title} with it")
        try:
            module, compared = _equal_module(
                graph, network.torch, card, samples, others, proof, half=half
            )
        except _LeftOutError as reason:
            card = card.model_copy(update={"limits": (*card.limits, str(reason))})
        else:
            files[MODEL_FILES[network.torch.runtime]] = network.torch.content
            parity = (*own, *compared)
            candidates[network.torch.file] = module
    if largest:
        progress("computing the largest sizes")
        one = replace(samples, real=False, rows=samples.resized(graph.fixed_batch or 1))
        one = replace(one, rows=at_sizes(graph.network.inputs, one.rows, largest))
        prove_largest(graph, candidates, one, outputs, half=half)
    card = card.model_copy(update={"parity": parity})
    progress("writing the package")
    try:
        return write_package(root, card, files)
    except OSError as error:
        raise AddError(_unwritable(root, error)) from error


class _TriedInputs(NamedTuple):
    """The inputs of a graph in a layout, and samples that are safe to compute; rows are first."""

    network: Source
    inputs: tuple[TensorSpec, ...]
    samples: Samples
    few: Arrays
    max_sizes: Sizes
    nonempty: Mapping[str, tuple[int, ...]]


def _tried_inputs(
    graph: ForeignGraph,
    network: Source,
    ranges: Sequence[InputRange],
    max_lengths: Sequence[MaxLength],
    batch: Stated,
    words: Sequence[str],
) -> _TriedInputs:
    """Return the inputs as the layout of the graph has them. The arguments are those of `add`.

    Raises:
        AddError: the samples do not fit the inputs, or the graph is not safe to compute.
    """
    network = with_rows_first(graph, network)
    max_sizes = given_sizes(graph.network.inputs, max_lengths)
    inputs = with_ranges(input_specs(graph, network.samples), ranges)
    samples = (
        given_samples(
            network.samples_file, network.samples, inputs, graph.fixed_batch, graph.axes.shared
        )
        if network.samples is not None
        else random_samples(inputs, graph.fixed_batch, words, shared_values(graph, batch))
    )
    samples = within(samples, graph.network.inputs, max_sizes)
    samples = replace(samples, apart=bool(graph.whole))
    few = samples.resized(graph.fixed_batch or min(samples.count, ROWS_OF_OTHER_SIZES))
    nonempty = require_safe(graph.file, network.onnx, graph.network.inputs, few, graph.axes.inputs)
    return _TriedInputs(network, inputs, samples, few, max_sizes, nonempty)


class _LeftOutError(Exception):
    """A file of torch that is left out of the package. The message is a sentence."""


def _equal_module(
    graph: ForeignGraph,
    script: TorchFile,
    card: ModelCard,
    samples: Samples,
    others: Sequence[Arrays],
    proof: RowsProof,
    *,
    half: bool,
) -> tuple[Runtime, tuple[ParityRecord, ...]]:
    """Return the opened file of torch, which equals the graph, with the differences.

    Raises:
        AddError: a file that is required differs.
        _LeftOutError: the file is served only if it is proved like the graph, and is not.
    """
    try:
        opened = open_module(script.file, script.content, card, script.runtime)
        module = opened if card.is_rows_first else RowsFirst(opened, card.axes)
        if not script.required:  # the comparison takes longer
            _require_rows_apart(script, module, proof)
        compared = prove_equal(
            graph, script.file, module, samples, others, card.outputs,
            batched=proof.batched, half=half,
        )  # fmt: skip
    except AddError as error:
        if script.required:
            raise
        raise _LeftOutError(f"The {script.title} is left out: {error}.") from error
    if script.required:
        _require_rows_apart(script, module, proof)
    return module, compared


def _require_rows_apart(script: TorchFile, module: Runtime, proof: RowsProof) -> None:
    """Check that the rows of a file of torch are independent where those of the graph are.

    Raises:
        _LeftOutError: it is not proved.
    """
    reason: str | None = None
    if not isinstance(module, TorchRuntime):
        reason = "its code is followed for batches on the first axis only"
    else:
        reason = next(filter(None, (script_mixing(module, rows) for rows in proof.batched)), None)
    if proof.batched and reason:
        raise _LeftOutError(f"The {script.title} is left out, since {NOT_APART}: {reason}.")


def _require_computable(file: str, model: "onnx.ModelProto") -> None:
    """Check that the graph computes something, and that no request can end the process.

    Raises:
        AddError: it does not.
    """
    if not model.graph.node:
        raise AddError(
            f"{file}: it has no operators, and so computes nothing: export the network "
            "again, with the outputs that it computes"
        )
    if unsafe := crash(model):
        raise AddError(f"{file}: {unsafe}")
    if division := dangerous_division(model):
        raise AddError(
            f"{file}: {division} divides integers by a number that a request may make -1, "
            "and the least integer divided by -1 ends the process of ONNX Runtime: divide by "
            "another constant, or cast to FP64 before the division and back after it"
        )


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


def _with_maxima(
    inputs: Sequence[TensorSpec], declared: Sequence[DeclaredTensor], largest: Sizes
) -> tuple[TensorSpec, ...]:
    """Return the inputs with the largest sizes of their free dimensions."""
    tensors = {tensor.name: tensor for tensor in declared}

    def largest_shape(spec: TensorSpec) -> tuple[int, ...] | None:
        if -1 not in spec.shape[1:]:
            return None
        inner = enumerate(spec.shape[1:], start=1)
        sizes = (
            largest[dimension_key(tensors[spec.name], axis)] if size == -1 else size
            for axis, size in inner
        )
        return (spec.shape[0], *sizes)

    return tuple(replace(spec, max_shape=largest_shape(spec)) for spec in inputs)


def _tells_classes(spec: TensorSpec) -> bool:
    return spec.labels is not None or spec.is_probabilities


def _example(
    graph: ForeignGraph,
    samples: Samples,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    half: bool,
) -> Example:
    rows = samples.resized(graph.fixed_batch or (1 if samples.row_size >= LARGE_ROW else 2))
    answers = graph.network(rows)
    return Example(
        inputs={spec.name: RecordedTensor.of(spec.datatype, rows[spec.name]) for spec in inputs},
        outputs={
            spec.name: RecordedTensor.of(spec.datatype, answers[spec.name]) for spec in outputs
        },
        tolerance=HALF_PRECISION if half else EXAMPLE_TOLERANCE,
    )


def _origin(graph: ForeignGraph, source: Source) -> str:
    if source.origin:
        return f"Exported from {source.origin}."
    producer = graph.network.producer
    return f"Added from {graph.file}" + (f", which {producer} wrote." if producer else ".")


def _batching(
    card: ModelCard, graph: ForeignGraph, proof: RowsProof, content: bytes
) -> Mapping[str, Any]:
    """Return the fields of the card that state what may be computed in one batch."""
    if graph.whole:
        reason = f"Each request is computed alone, as one computation: {graph.whole}."
        return {"batching": "none", "limits": (*card.limits, reason)}
    if proof.mixing:
        reason = (
            "Each request is computed alone, as it came, since it is not proved that a row's "
            f"answer does not depend on the rows beside it: {proof.mixing}."
        )
        return {"batching": "none", "limits": (*card.limits, reason)}
    decided = bool(graph.axes.shared) and values_matter(content, graph.axes.shared)
    if not (proof.batched and (card.has_free_dimensions or decided)):
        return {}
    limits = [*card.limits, *_batched(card.inputs, proof.batched)]
    if proof.unbatched:
        rows, reason = proof.unbatched[0]
        shapes = ", ".join(f"{list(array.shape[1:])} of {name}" for name, array in rows.items())
        limits.append(f"Rows of {shapes} are not batched: {reason}.")
    shapes_of = [{name: array.shape[1:] for name, array in rows.items()} for rows in proof.batched]
    if not decided:
        shapes_of = [one for at, one in enumerate(shapes_of) if one not in shapes_of[:at]]
    values_of: tuple[dict[str, RecordedTensor], ...] = ()
    if decided:
        specs = [spec for spec in card.inputs if spec.batch_axis is None]
        values_of = tuple(
            {spec.name: RecordedTensor.of(spec.datatype, rows[spec.name][0, ...]) for spec in specs}
            for rows in proof.batched
        )
        limits += _batched_values(specs, proof.batched)
    return {
        "batched_shapes": tuple(shapes_of),
        "batched_values": values_of,
        "limits": tuple(limits),
    }


def _batched_values(shared: Sequence[TensorSpec], batched: Sequence[Arrays]) -> Iterable[str]:
    for spec in shared:
        values = dict.fromkeys(str(rows[spec.name][0].tolist()) for rows in batched)
        yield (
            f"Of {spec.name}, requests with {' or '.join(values)} are batched; a request with "
            "another value is computed alone."
        )


def _batched(inputs: Sequence[TensorSpec], batched: Sequence[Arrays]) -> Iterable[str]:
    for spec in inputs:
        if -1 in spec.shape[1:]:
            shapes = dict.fromkeys(rows[spec.name].shape[1:] for rows in batched)
            proved = ", ".join(str(list(shape)) for shape in shapes)
            yield (
                f"Of {spec.name}, rows of {proved} are batched; a request with rows of other sizes "
                "is computed alone."
            )


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
