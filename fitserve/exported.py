"""A network as the command `fitserve add` takes it: files, samples, and its own answers.

A door (`fitserve.doors`) makes an `Exported` of a network of its library. `write` puts it into a
folder, which `fitserve add NAME FOLDER` reads:

    export.json         {"format": 1, "origin": …, "labels": […], "notes": […], "picture": …,
                        "text": …}
    model.onnx          the network as ONNX
    …                   files of weights beside it, under the names that it states; may be missing
    model.pt            the network as TorchScript; may be missing
    model.pt2           the network as a program of torch.export, in place of TorchScript
    samples-1.npz       rows of every input by name
    answers-1.npz       what the network itself computes for these rows, by the names of the outputs
    samples-2.npz …     the same with other sizes of the free dimensions; may be missing
    further-1.npz …     rows unlike the sample; may be missing
    further-answers-1.npz …  what the network itself computes for these
    picture-1.png …     the pictures of a network with declared steps before it; may be missing
    transformed.npz     what the training library makes of these pictures
    tokenizer.json      the tokenizer of a network for texts; may be missing
    text-answers.npz    what the network itself answers to each text, as NUMBER.OUTPUT
    table.json          {"columns": […], "values": {column: […]}}: the columns of a network for
                        rows of a table, and the rows of the first sample in these terms
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
GIVE_ROWS = (
    "give rows with --sample FILE.npz, or each input with --input, as --input "
    "image:FP32[-1,3,224,224]; in Python, give sample=rows"
)
"""What to do without a sample, as the end of a sentence."""
RANDOM = "Its example and its proof rest on random numbers, not on real data."
"""The note of an export without a sample."""
Arrays = Mapping[str, NDArray[Any]]


def environment() -> dict[str, str]:
    """Return an environment in which a folder `models` of the user does not hide ours."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


class ExportError(Exception):
    """A network that cannot be exported. The message says why, where, and what to write instead."""


def reason(error: BaseException) -> str:
    """Return the first line of an error of a library, or its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True)
class Record:
    """Rows of every input, and the outputs that the network itself computes for them."""

    samples: Arrays
    answers: Arrays


@dataclass(frozen=True)
class Pictures:
    """The steps from a picture to an input, and pictures that show them.

    Attributes:
        declared: as `fitserve.pictures.Picture.declared` returns it.
        files: pictures as PNG files; may be empty.
        transformed: what the training library makes of them, [N, channels, H, W].
    """

    declared: Mapping[str, Any]
    files: Sequence[bytes] = ()
    transformed: NDArray[Any] | None = None


@dataclass(frozen=True)
class Texts:
    """The steps from a text to the inputs, and texts that show them.

    Attributes:
        declared: how a text becomes the inputs, the texts, and their tokens by the training
            library (`models.sources.source.DeclaredText`).
        tokenizer: the file `tokenizer.json`.
        answers: what the network itself answers to each of the texts alone.
    """

    declared: Mapping[str, Any]
    tokenizer: bytes
    answers: Sequence[Arrays]


class Table(NamedTuple):
    """The columns of a table, and the values of each column in the rows of the sample."""

    columns: list[dict[str, Any]]
    values: dict[str, list[Any]]

    def to_json(self) -> str:
        """Return the content of `table.json`.

        Raises:
            ExportError: a value has no form in JSON.
        """
        try:
            return json.dumps(self._asdict())
        except (TypeError, ValueError) as error:
            raise ExportError(
                f"a value of the table has no form in JSON ({error}): give numbers, truth values, "
                "texts, dates, or None"
            ) from error


@dataclass(frozen=True)
class Exported:
    """A network as files.

    Attributes:
        onnx: the ONNX file.
        records: one or more; the shapes of their rows may differ in the free dimensions only.
        further: the same of rows unlike the sample, with which the export is compared.
        origin: where the network comes from, as `Net of torch 2.13.0`.
        torchscript: the TorchScript file, whose arguments are the inputs of the graph.
        program: the file of torch.export, with the same arguments; in place of TorchScript.
        labels: the classes.
        notes: what the user should know, a sentence each.
        pictures: the pictures of the sample, and how they become the input; None for other inputs.
        texts: how texts become the inputs; None for other inputs.
        weights: the weights that the ONNX file does not contain, by the names of their files.
        table: how rows with named columns become the inputs; None for other inputs.
    """

    onnx: bytes
    records: Sequence[Record]
    origin: str
    further: Sequence[Record] = ()
    torchscript: bytes | None = None
    program: bytes | None = None
    labels: Sequence[str] = ()
    notes: Sequence[str] = ()
    pictures: Pictures | None = None
    texts: Texts | None = None
    weights: Mapping[str, bytes] = field(default_factory=dict)
    table: Table | None = None

    def write(self, folder: Path) -> None:
        """Write the files into an empty folder.

        Raises:
            OSError: a file cannot be written.
        """
        (folder / "model.onnx").write_bytes(self.onnx)
        for name, weights in self.weights.items():
            (folder / name).write_bytes(weights)
        if self.torchscript is not None:
            (folder / "model.pt").write_bytes(self.torchscript)
        if self.program is not None:
            (folder / "model.pt2").write_bytes(self.program)
        for prefix, records in (("", self.records), ("further-", self.further)):
            for number, record in enumerate(records, start=1):
                _save(folder / f"{prefix or 'samples-'}{number}.npz", record.samples)
                _save(folder / f"{prefix}answers-{number}.npz", record.answers)
        content = {
            "format": FORMAT,
            "origin": self.origin,
            "labels": list(self.labels),
            "notes": list(self.notes),
            "picture": None,
            "text": None,
        }
        if self.pictures is not None:
            content["picture"] = dict(self.pictures.declared)
            for number, file in enumerate(self.pictures.files, start=1):
                (folder / f"picture-{number}.png").write_bytes(file)
            if self.pictures.transformed is not None:
                _save(folder / "transformed.npz", {"rows": self.pictures.transformed})
        if self.texts is not None:
            content["text"] = dict(self.texts.declared)
            (folder / "tokenizer.json").write_bytes(self.texts.tokenizer)
            answers = enumerate(self.texts.answers)
            _save(
                folder / "text-answers.npz",
                {f"{at}.{name}": array for at, one in answers for name, array in one.items()},
            )
        if self.table is not None:
            (folder / "table.json").write_text(self.table.to_json())
        (folder / "export.json").write_text(json.dumps(content))


def _save(file: Path, arrays: Arrays) -> None:
    # Arrays of objects would be pickled.
    saved = {
        name: array.astype("U") if array.dtype == object else array
        for name, array in arrays.items()
    }
    np.savez(file, **saved)  # type: ignore[arg-type] # names are no options of savez
