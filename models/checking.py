"""`check`: computes a package, and shows what a caller sends and gets."""

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.kinds.tensor_spec import TensorSpec
from models.package.card import ModelCard
from models.package.digits import fewest_digits
from models.package.model_package import ModelPackage
from models.runtimes.loading import open_runtime
from models.runtimes.runtime import Arrays, Runtime

LONGEST = 4_000
"""The most characters of a message that is shown whole; of a longer one, the start of the data."""
SHOWN_NUMBERS = 6
URL = "http://127.0.0.1:3000"
_RUNS = 5


def check(package: ModelPackage) -> Iterator[str]:
    """Yield the lines that show a package at work.

    Raises:
        PackageError: a file is altered, or does not give the recorded prediction.
        ImportError: a runtime is not installed.
    """
    card = package.card
    package.verify()
    runtimes = {name: open_runtime(package, name) for name in card.runtimes}
    yield f"{package.label} is right in {', '.join(runtimes)}"
    rows = _rows(card)
    for name, runtime in runtimes.items():
        yield f"  {name}: {_milliseconds(runtime, rows):.3g} ms for {_count(rows)}"
    outputs = next(iter(runtimes.values()))(rows)
    if any(spec.datatype == "BF16" for spec in (*card.inputs, *card.outputs)):
        yield f"A caller sends and gets BF16 in binary at /v2/models/{card.name}/infer, or numbers"
        if len(text := _instances(_rows_of(rows))) <= LONGEST:
            yield f"  curl -s {URL}/models/{card.name}/predict -d {text}"
        return
    yield "A caller sends"
    request = {"inputs": _tensors(card.inputs, card.axes.inputs_of_network(rows))}
    yield f"  curl -s {URL}/v2/models/{card.name}/infer -d {shlex.quote(_text(request))}"
    yield "and gets"
    response = {
        "model_name": card.name,
        "model_version": card.version,
        "outputs": _tensors(card.outputs, card.axes.outputs_of_network(outputs)),
    }
    yield f"  {_text(response)}"
    yield from _in_callers_terms(card)
    for spec in card.outputs:
        if spec.answer:
            yield f"{URL}/models/{card.name}/predict answers {spec.name}: {spec.answer.to_text()}"


def _in_callers_terms(card: ModelCard) -> Iterator[str]:
    """Yield the request of a caller with a picture, a text or a row, if the model takes one."""
    predict = f"  curl -s {URL}/models/{card.name}/predict"
    if len(card.inputs) == 1 and card.inputs[0].picture:
        yield "A caller with a picture sends"
        yield f"{predict} -F image=@picture.png"
    if card.text is not None:
        text = card.text.example
        row = text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        yield "A caller with a text sends"
        yield f"{predict} -d {_instances([row])}"
    if card.table is not None:
        yield "A caller with a row sends"
        count = len(card.table.example) if card.fixed_batch or card.batching == "none" else 1
        yield f"{predict} -d {_instances(card.table.example[:count])}"
        yield "of the columns"
        for column in card.table.columns:
            yield f"  {column.name}: {column.to_text()}"


def _instances(rows: Sequence[Any]) -> str:
    return shlex.quote(json.dumps({"instances": list(rows)}, ensure_ascii=False))


def _rows(card: ModelCard) -> Arrays:
    """Return the first recorded row; the whole batch if its size is fixed or rows are not split."""
    whole = card.fixed_batch is not None or card.batching == "none"
    arrays = {name: tensor.array() for name, tensor in card.rows_first.example.inputs.items()}
    return arrays if whole else {name: array[:1] for name, array in arrays.items()}


def _count(rows: Arrays) -> str:
    count = len(next(iter(rows.values())))
    return f"{count} row{'s' if count > 1 else ''}"


def _milliseconds(runtime: Runtime, rows: Arrays) -> float:
    seconds = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        runtime(rows)
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds)


def _tensors(specs: Sequence[TensorSpec], arrays: Arrays) -> list[Mapping[str, Any]]:
    return [
        {
            "name": spec.name,
            "shape": list(arrays[spec.name].shape),
            "datatype": spec.datatype,
            "data": fewest_digits(arrays[spec.name].ravel()),
        }
        for spec in specs
    ]


def _rows_of(rows: Arrays) -> list[Any]:
    """Return rows as the endpoint of rows takes them."""
    columns = {name: fewest_digits(array) for name, array in rows.items()}
    if len(columns) == 1:
        return next(iter(columns.values()))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _text(message: Mapping[str, Any]) -> str:
    """Return a message as JSON; the data of a long one are cut, with their number behind it."""
    text = json.dumps(message)
    if len(text) <= LONGEST:
        return text
    short = json.loads(text)
    notes = []
    for tensor in (*short.get("inputs", ()), *short.get("outputs", ())):
        count = len(tensor["data"])
        if count > SHOWN_NUMBERS:
            tensor["data"] = tensor["data"][:SHOWN_NUMBERS]
            notes.append(f"{tensor['name']} has {count:,} values")
    return f"{json.dumps(short)}  (shortened: {', '.join(notes)})"
