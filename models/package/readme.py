"""The `README.md` of a package, rendered from its card."""

import json
from collections.abc import Iterable, Mapping, Sequence

from models.kinds.table_columns import CategoryColumn, DateColumn, NumberColumn
from models.kinds.tensor_spec import TensorSpec
from models.kinds.tokens import TOKENIZER_FILE
from models.package.card import (
    MODEL_FILES,
    WEIGHTS_FILE,
    Evaluation,
    FitRecord,
    ModelCard,
)


def render_page(card: ModelCard) -> str:
    """Return the card as a Markdown page, with the package's plots."""
    sections = [
        f"# {card.name} {card.version}\n\n{card.summary}",
        _signature(card),
        _figures(card),
        _pictures(card),
        _parity(card),
        _fit(card.fit) if card.fit else "",
        _use(card),
        _files(card),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


_CONTENTS: Mapping[str, str] = {
    MODEL_FILES["onnx"]: "operators of ONNX",
    WEIGHTS_FILE: "the weights of model.onnx",
    MODEL_FILES["torchscript"]: "code, which runs when it is loaded",
    MODEL_FILES["pt2"]: "operators of torch",
}
"""What the files of the runtimes hold."""


def headline(card: ModelCard) -> str:
    """Return the most important metric as text, as `99.70% of 100 test samples right`."""
    if not card.evaluations or not card.evaluations[0].metrics:
        return "not evaluated"
    test = card.evaluations[0]
    samples = f"{test.samples:,} {test.split} samples"
    if "accuracy" in test.metrics:
        return f"{test.metrics['accuracy']:.2%} of {samples} right"
    name = "mse" if "mse" in test.metrics else next(iter(test.metrics))
    words = "mean squared error" if name == "mse" else name.replace("_", " ")
    return f"{words} {_number(test.metrics[name])} on {samples}"


def batching_note(card: ModelCard) -> str:
    """What is not batched, as `requests of 12 sizes batched, others alone`; empty where all is."""
    if card.batching == "none":
        return "each request alone (batching: none)"
    if card.fixed_batch is not None or not (card.has_free_dimensions or card.batched_values):
        return ""
    if card.padding is not None:
        lengths = ", ".join(map(str, card.padding.lengths))
        return f"rows padded to the lengths {lengths}, and batched"
    if not card.batched_shapes:
        return "each request alone (no sizes are proved: add the network anew)"
    values = ", with the proved values of what they share," if card.batched_values else ""
    return f"requests of {len(card.batched_shapes)} sizes{values} batched, others alone"


def layout_note(card: ModelCard) -> str:
    """Where the batch is, as `axis 1 of state; sr is shared`; empty if it is first everywhere."""
    if card.is_rows_first:
        return ""
    if not card.axes.has_batch:
        return "none; a request is one computation"
    notes = [
        f"axis {spec.batch_axis} of {spec.name}"
        for spec in (*card.inputs, *card.outputs)
        if spec.batch_axis is not None
    ]
    notes += [f"{name} is shared" for name in card.axes.shared]
    if split := card.split:
        column = "" if split.column is None else f", column {split.column}"
        notes.append(f"{', '.join(split.outputs)} by the index {split.index}{column}")
    else:
        notes += [
            f"{spec.name} is one for the whole request"
            for spec in card.outputs
            if spec.batch_axis is None
        ]
    return "; ".join(notes)


def largest_note(card: ModelCard) -> str:
    """The largest sizes of the free dimensions, as `x.1=512, y.1=512`; empty if none is known."""
    return ", ".join(
        f"{spec.name}.{axis}={spec.max_shape[axis]}"
        for spec in card.inputs
        if spec.max_shape is not None
        for axis, size in enumerate(spec.shape)
        if axis != spec.batch_axis and size == -1
    )


def text_note(card: ModelCard) -> str:
    """How texts of unequal lengths are computed."""
    return "padded together" if card.padding else "those of unequal lengths one by one"


def _shape(spec: TensorSpec) -> str:
    return f"{list(spec.shape)}" + (f", at most {list(spec.max_shape)}" if spec.max_shape else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    text = "none" if value is None else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e-3 else f"{value:.4f}"


def _range(spec: TensorSpec) -> str:
    return f"{spec.range}; others are refused" if spec.enforced else spec.range


def _signature(card: ModelCard) -> str:
    def row(direction: str, spec: TensorSpec) -> Sequence[object]:
        name, shape = f"`{spec.name}`", _shape(spec)
        answer = spec.answer.to_text() if spec.answer else ""
        meaning = "; ".join(filter(None, (spec.meaning, answer)))
        return direction, name, spec.datatype, shape, _range(spec), meaning

    rows = [row("in", spec) for spec in card.inputs] + [row("out", spec) for spec in card.outputs]
    page = "## What goes in and comes out\n\n" + _table(
        ["", "tensor", "datatype", "shape", "range", "meaning"], rows
    )
    if batch := layout_note(card):
        page += f"\n\nThe batch: {batch}."
    if card.text:
        page += (
            f"\n\nThe inputs are made of texts by `{TOKENIZER_FILE}`: at most "
            f"{card.text.max_tokens} tokens of each, {text_note(card)}."
        )
    if card.table:
        columns = [
            (f"`{one.name}`", one.to_text(), one.meaning, f"`{one.input}`, {_becomes(one)}")
            for one in card.table.columns
        ]
        page += "\n\nThe inputs are made of rows with these columns:\n\n" + _table(
            ["column", "value", "meaning", "becomes"], columns
        )
        request = json.dumps({"instances": card.table.example[:1]}, ensure_ascii=False)
        page += f"\n\nA request, `POST /models/{card.name}/predict`:\n\n```json\n{request}\n```"
    return page


def _becomes(column: NumberColumn | CategoryColumn | DateColumn) -> str:
    """Return what the values of a column become in an input, in words."""
    missing = "" if column.missing is None else f"; missing: {column.missing}"
    if isinstance(column, DateColumn):
        return ", ".join(column.parts) + missing
    if isinstance(column, NumberColumn):
        return f"as {'1 or 0' if column.type == 'boolean' else 'it is'}{missing}"
    if column.texts:
        return f"as text{missing}"
    unknown = "" if column.unknown is None else f"; unknown: {column.unknown}"
    return f"codes from {column.first}{unknown}{missing}"


def _figures(card: ModelCard) -> str:
    if not card.evaluations:
        return ""
    metrics = list(dict.fromkeys(name for entry in card.evaluations for name in entry.metrics))

    def row(entry: Evaluation) -> Sequence[object]:
        values = [_number(entry.metrics[name]) if name in entry.metrics else "" for name in metrics]
        return f"{entry.data}, {entry.split}", f"{entry.samples:,}", *values

    text = "## How good it is\n\n" + _table(
        ["data", "samples", *(name.replace("_", " ") for name in metrics)],
        [row(entry) for entry in card.evaluations],
    )
    if card.seeds:
        text += "\n\nOver several seeds, on the test split:\n\n" + _table(
            ["setting", "metric", "seeds", "mean", "standard deviation", "each"],
            [
                (
                    entry.setting,
                    entry.metric.replace("_", " "),
                    ", ".join(map(str, entry.seeds)),
                    _number(entry.mean),
                    _number(entry.standard_deviation),
                    ", ".join(map(_number, entry.values)),
                )
                for entry in card.seeds
            ],
        )
    classes = card.evaluations[0].classes
    if classes:
        text += f"\n\nBy class ({card.evaluations[0].data}, {card.evaluations[0].split}):\n\n"
        text += _table(
            ["class", "precision", "recall", "F1", "samples"],
            [
                (c.label, _number(c.precision), _number(c.recall), _number(c.f1), c.samples)
                for c in classes
            ],
        )
    return text


def _pictures(card: ModelCard) -> str:
    pictures = [file for file in card.files if file.endswith(".png")]
    return "\n\n".join(
        f"![{file.rsplit('/', 1)[-1].removesuffix('.png').replace('-', ' ')}]({file})"
        for file in pictures
    )


def _parity(card: ModelCard) -> str:
    if not card.parity:
        return ""
    title, subject = "The files are proved", []
    if card.fit:
        title, subject = (
            "The files equal the network",
            ["each file against the network in eager mode"],
        )
    elif len(card.parity) > 1:
        subject = ["each file against the other"]
    if any(spec.batch_axis is None for spec in card.outputs) and card.batching == "none":
        subject.append("each computation against the same one again")
    elif card.fixed_batch:
        subject.append(f"each batch of {card.fixed_batch} against the same batch again")
    else:
        subject.append("each row of a batch against the same row alone")
    sentence = ", and ".join(subject)
    return f"## {title}\n\n{sentence[0].upper()}{sentence[1:]}.\n\n" + _table(
        ["runtime", "samples", "batch sizes", "largest difference", "relative", "same answer"],
        [
            (
                entry.runtime,
                f"{entry.samples:,}",
                ", ".join(map(str, entry.batch_sizes)),
                f"{entry.largest_absolute_difference:.1e}",
                f"{entry.largest_relative_difference:.1e}",
                f"{entry.equal_answers:.2%}",
            )
            for entry in card.parity
        ],
    )


def _fit(fit: FitRecord) -> str:
    splits = fit.data.splits
    facts = [
        ("recipe", f"`{fit.recipe}`, {fit.setting} setting"),
        ("network", f"{fit.network} ({fit.parameter_count:,} parameters)"),
        ("data", f"{fit.data.summary}"),
        (
            "split",
            f"{splits.train:,} train, {splits.validation:,} validation, {splits.test:,} test",
        ),
        ("data SHA-256", f"`{fit.data.sha256}`"),
        ("device", fit.device),
        ("time", f"{fit.seconds:.0f} s for {fit.epochs} epochs; weights of epoch {fit.kept_epoch}"),
        ("seed", fit.seed),
        ("libraries", ", ".join(f"{name} {version}" for name, version in fit.libraries.items())),
        *((f"run in {tracker}", f"`{run}`") for tracker, run in fit.run_ids.items()),
    ]
    chosen = [
        (f"`{name}`", ", ".join(map(str, value)) if isinstance(value, tuple) else value)
        for name, value in fit.hyperparameters.items()
    ]
    return (
        "## How it was fitted\n\n"
        + _table(["", ""], facts)
        + "\n\n"
        + _table(["hyperparameter", "value"], chosen)
    )


def _use(card: ModelCard) -> str:
    limits = "".join(f"\n- {limit}" for limit in card.limits)
    if not card.intended_use and not limits:
        return ""
    return f"## What it is for\n\n{card.intended_use}" + (f"\n{limits}" if limits else "")


def _files(card: ModelCard) -> str:
    return "## Files\n\n" + _table(
        ["file", "holds", "bytes", "SHA-256"],
        [
            (name, _CONTENTS.get(name, ""), f"{file.bytes:,}", f"`{file.sha256}`")
            for name, file in card.files.items()
        ],
    )
