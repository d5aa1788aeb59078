"""What an added network is: its inputs, outputs and batch, found by running it on samples."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from models.adding.answer_options import AnswerOptions
from models.adding.labels import require_agreement
from models.adding.layout_rows import shared_values, with_rows_first, with_values
from models.adding.layouts import LayoutSearch
from models.adding.sample_answers import compute_answers
from models.adding.specs import input_specs, output_specs
from models.errors import AddError
from models.graphs.crashes import crash
from models.graphs.divisions import dangerous_division
from models.graphs.graph import is_quantized, load
from models.graphs.half_precision import half_tolerance
from models.graphs.sample_texts import words_of
from models.kinds.padding import PaddingSpec
from models.kinds.split_rows import SplitSpec
from models.kinds.table_columns import TableSpec
from models.kinds.tensor_spec import TensorSpec
from models.proofs.padding_proof import Pad, planned_padding, rows_of_length
from models.proofs.picture_proof import with_picture
from models.proofs.proof_budget import affordable
from models.proofs.row_proof import ROWS_OF_OTHER_SIZES, rewriting
from models.proofs.split_proof import planned_split
from models.proofs.table_proof import with_samples
from models.proofs.text_proof import max_tokens_of, text_padding
from models.proofs.trial_sizes import require_safe
from models.runtimes.runtime import Arrays, DeclaredTensor
from models.sources.free_sizes import dimension_key, other_sizes
from models.sources.importing import ForeignGraph, open_graph
from models.sources.indices import index_ranges
from models.sources.max_length import MaxLength, Sizes, given_sizes, largest_sizes, within
from models.sources.ranges import InputRange, with_ranges
from models.sources.samples import Samples, given_samples, random_samples
from models.sources.source import Source
from models.sources.stated_batch import Stated

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Asked:
    """What the options of `add` say of the network; `models.adding.add.add` describes them."""

    labels: Sequence[str] = ()
    ranges: Sequence[InputRange] = ()
    max_lengths: Sequence[MaxLength] = ()
    pads: Sequence[Pad] = ()
    masks: Sequence[str] = ()
    batch: Stated = Stated()  # noqa: RUF009 - it is immutable
    answer: AnswerOptions = AnswerOptions()  # noqa: RUF009 - it is immutable

    @property
    def padding(self) -> bool:
        """Whether rows are to be padded."""
        return bool(self.pads or self.masks)


@dataclass(frozen=True)
class Observed:
    """A network as it was found. Its tensors and samples have the rows first.

    Attributes:
        source: the files, and the network's own answers.
        graph: the opened graph, with the place of its batch.
        inputs: the specifications of the inputs.
        outputs: the specifications of the outputs.
        samples: the rows of the checks.
        few: some of them.
        others: rows at other sizes, and with other shared values.
        largest: the largest size of each free dimension.
        padding: how rows of unequal lengths are to be padded, if that is proved.
        rewritten: how the optimized graph computes something else; None if it does not.
        split: which outputs are divided among the rows, if that is proved.
        half: the tolerance of the half precision in which the network computes; else 0.
    """

    source: Source
    graph: ForeignGraph
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    samples: Samples
    few: Arrays
    others: Sequence[Arrays]
    largest: Sizes
    padding: PaddingSpec | None
    rewritten: str | None
    split: SplitSpec | None
    half: float


def observe(source: Source, asked: Asked, progress: Callable[[str], object]) -> Observed:
    """Return what a network is.

    Args:
        source: the files.
        asked: the options.
        progress: called with each step before it begins.

    Raises:
        AddError: the network cannot be served, or an option does not fit it.
    """
    opened = open_graph(source.file, source.onnx, source.weights)
    model = load(source.onnx)
    _require_computable(source, model)
    half = half_tolerance(source.onnx)
    source = with_samples(source.file, source, opened.inputs)
    asked = _completed(asked, source, opened.inputs)
    search = LayoutSearch(
        source.file,
        opened,
        source.onnx,
        model,
        source.samples,
        asked.ranges,
        asked.batch,
        source.weights,
    )
    progress("trying sizes in another process")
    words = words_of(model)
    graph = search.first()
    tried = _tried_inputs(graph, source, asked, words)
    if (settled := search.settled(graph, tried.few)) is not graph:
        graph = settled
        tried = _tried_inputs(graph, source, asked, words)
    source, inputs, samples, few, max_sizes, nonempty = tried
    samples = affordable(graph.network, samples)
    largest = largest_sizes(graph, source.onnx, few, max_sizes)
    others = other_sizes(graph.network, graph.network.inputs, few, graph.fixed_batch or 1, largest)
    padding = planned_padding(graph, asked.pads, asked.masks, inputs, few, largest)
    if padding is not None:
        others += [dict(rows_of_length(graph, padding, few, size)) for size in padding.lengths]
    others += with_values(graph, few, others, asked.batch)
    progress(f"computing {samples.count} rows")
    answers = compute_answers(graph, samples)
    inputs = tuple(replace(spec, nonempty=nonempty.get(spec.name, ())) for spec in inputs)
    inputs = _with_maxima(inputs, graph.network.inputs, largest)
    if source.pictures:
        inputs = with_picture(graph.file, inputs, source.pictures)
    outputs = output_specs(graph, answers, inputs, asked.labels)
    progress("comparing the graph with its optimized form")
    rewritten = None
    if not is_quantized(model):
        rewritten = rewriting(graph, source.onnx, few, samples, outputs, half=half)
    if rewritten:
        graph = replace(graph, network=graph.opened(source.onnx, optimized=False))
        answers = compute_answers(graph, samples)
        outputs = output_specs(graph, answers, inputs, asked.labels)
    require_agreement(graph.file, answers.outputs, outputs)
    if misfit := asked.answer.misfit(outputs):
        raise AddError(f"{graph.file}: {misfit}")
    outputs = tuple(replace(spec, **asked.answer.of(spec)) for spec in outputs)
    stated = asked.batch.split
    split = None if stated is None else planned_split(graph, stated, samples)
    return Observed(
        source,
        graph,
        inputs,
        outputs,
        samples,
        few,
        others,
        largest,
        padding,
        rewritten,
        split,
        half,
    )


def _completed(asked: Asked, source: Source, inputs: Sequence[DeclaredTensor]) -> Asked:
    """Return the options, with what the files say where the options say nothing."""
    asked = replace(asked, labels=asked.labels or source.labels)
    ranges = list(asked.ranges)
    if source.table:
        ranges += _code_ranges(source.table.spec, {one.name for one in ranges})
    given = {one.name for one in ranges}
    ranges += [one for one in index_ranges(source.onnx) if one.name not in given]
    if source.texts:
        longest = MaxLength(None, max_tokens_of(source.texts))
        asked = replace(asked, max_lengths=asked.max_lengths or [longest])
        if not asked.padding:
            pads, masks = text_padding(source.texts)
            asked = replace(asked, pads=pads, masks=masks)
    names = {tensor.name for tensor in inputs}
    ranges += [InputRange(mask, 0, 1) for mask in asked.masks if mask in names - given]
    return replace(asked, ranges=ranges)


def _code_ranges(table: TableSpec, given: Collection[str]) -> list[InputRange]:
    """Return the ranges of the inputs that hold codes of categories alone.

    Each column may index another table, so the graph alone states the range of the smallest.
    """
    ranges = ((name, table.code_range(name)) for name in table.by_input if name not in given)
    return [InputRange(name, *map(float, codes)) for name, codes in ranges if codes is not None]


def _require_computable(source: Source, model: "onnx.ModelProto") -> None:
    """Check that the graph computes something, and that no request can end the process.

    Raises:
        AddError: it does not.
    """
    file = source.file
    if not model.graph.node:
        raise AddError(
            f"{file}: it has no operators, and so computes nothing: export the network "
            "again, with the outputs that it computes"
        )
    if unsafe := crash(model):
        raise AddError(f"{file}: {unsafe}")
    if division := dangerous_division(model, source.weights):
        raise AddError(
            f"{file}: {division} divides integers by a number that a request may make -1, "
            "and the least integer divided by -1 ends the process of ONNX Runtime: divide by "
            "another constant, or cast to FP64 before the division and back after it"
        )


class _TriedInputs(NamedTuple):
    """The inputs of a graph in a layout, and samples that are safe to compute; rows are first."""

    source: Source
    inputs: tuple[TensorSpec, ...]
    samples: Samples
    few: Arrays
    max_sizes: Sizes
    nonempty: Mapping[str, tuple[int, ...]]


def _tried_inputs(
    graph: ForeignGraph, source: Source, asked: Asked, words: Sequence[str]
) -> _TriedInputs:
    """Return the inputs as the layout of the graph has them.

    Raises:
        AddError: the samples do not fit the inputs, or the graph is not safe to compute.
    """
    source = with_rows_first(graph, source)
    max_sizes = given_sizes(graph.network.inputs, asked.max_lengths)
    inputs = with_ranges(input_specs(graph, source.samples), asked.ranges)
    samples = (
        given_samples(
            source.samples_file, source.samples, inputs, graph.fixed_batch, graph.axes.shared
        )
        if source.samples is not None
        else random_samples(inputs, graph.fixed_batch, words, shared_values(graph, asked.batch))
    )
    if source.table and not source.table.given:
        samples = replace(samples, real=False)
    samples = within(samples, graph.network.inputs, max_sizes)
    samples = replace(samples, apart=bool(graph.whole))
    few = samples.resized(graph.fixed_batch or min(samples.count, ROWS_OF_OTHER_SIZES))
    nonempty = require_safe(
        graph.file, source.onnx, graph.network.inputs, few, graph.axes.inputs, source.weights
    )
    return _TriedInputs(source, inputs, samples, few, max_sizes, nonempty)


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
