"""What `add` makes a package of: an ONNX file of any origin, or the folder of an export.

`fitserve/exported.py` writes such a folder and describes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import AddError
from models.kinds.pictures import PictureSpec
from models.kinds.tokens import TOKENIZER_FILE
from models.package.card import MODEL_FILES, RuntimeName
from models.package.text import escaped
from models.runtimes.onnx_library import Weights
from models.runtimes.runtime import Arrays
from models.sources.external_weights import with_weights
from models.sources.importing import MAX_ONNX_BYTES, read_file
from models.sources.repairs import repaired
from models.sources.samples import has_nan, read_arrays, rows_without_nan
from models.sources.single_precision import NOTE, computable
from models.sources.table_files import GivenTable, read_given

EXPORT_FILE = "export.json"
_MAX_EXPORT_BYTES = 2**20


@dataclass(frozen=True)
class TorchFile:
    """A file of torch: its name for messages, its content, and the runtime that computes it."""

    file: str
    content: bytes
    runtime: RuntimeName
    required: bool
    """Whether `add` refuses the network if the file differs; otherwise the file is left out."""

    @property
    def title(self) -> str:
        """The kind of the file, for messages."""
        return "TorchScript file" if self.runtime == "torchscript" else "file of torch.export"


@dataclass(frozen=True)
class Record:
    """Rows of every input, and what the network itself computed for them in its own library."""

    samples: Arrays
    answers: Arrays


class DeclaredPicture(BaseModel):
    """How pictures become an input, as an export declares it.

    Attributes:
        input: the name of the input.
        picture: for the card.
        mean: of each channel, which the graph subtracts from pixels from 0 to 1.
        std: of each channel, by which the graph divides.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    input: str
    picture: PictureSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]


class DeclaredText(BaseModel):
    """How texts become inputs, as an export declares it, and what its library makes of some.

    Attributes:
        spec: for the card, without an example.
        padding: the values with which the inputs of shorter texts are padded at the end, except
            the mask; None if the training library pads in another way.
        texts: some texts, each of which may be a pair.
        token_ids: their numbers by the training library.
        type_ids: which text of a pair each token is of.
    """

    model_config = ConfigDict(extra="forbid")
    spec: dict[str, str | int | None]
    padding: dict[str, int] | None
    texts: Annotated[tuple[str | tuple[str, str], ...], Field(min_length=1)]
    token_ids: tuple[tuple[int, ...], ...]
    type_ids: tuple[tuple[int, ...], ...]


class Texts(NamedTuple):
    """A declared text, the tokenizer, and the answers of the network to each of the texts alone."""

    declared: DeclaredText
    tokenizer: bytes
    answers: Sequence[Arrays]


class Pictures(NamedTuple):
    """Declared steps, and what the training library makes of some pictures (may be None)."""

    declared: DeclaredPicture
    files: Sequence[bytes]
    transformed: NDArray[Any] | None


@dataclass(frozen=True)
class Source:
    """A network as files.

    Attributes:
        file: the name of the ONNX file, for messages.
        onnx: its content, with the weights.
        weights: the weights that are beside it; None if it contains all of them.
        torch: the same network as TorchScript, or as a program of torch.export.
        samples: rows of every input by name; None if none were given.
        samples_file: where they come from, for messages.
        records: what the network itself computes, if it was exported by us.
        further: the same of rows unlike the sample.
        origin: where the network comes from; empty if only its file is known.
        labels: the classes that the file or the export names.
        notes: what the card should say about the export.
        pictures: how pictures become the input; None for inputs of other kinds.
        texts: how texts become the inputs; None for inputs of other kinds.
        table: how rows with named columns become the inputs; None for inputs of other kinds.
    """

    file: str
    onnx: bytes
    torch: TorchFile | None = None
    samples: dict[str, NDArray[Any]] | None = None
    samples_file: Path = Path()
    records: Sequence[Record] = ()
    further: Sequence[Record] = ()
    origin: str = ""
    labels: Sequence[str] = ()
    notes: Sequence[str] = ()
    pictures: Pictures | None = None
    texts: Texts | None = None
    weights: Weights | None = None
    table: GivenTable | None = None


class _Export(BaseModel):
    """The content of `export.json`."""

    model_config = ConfigDict(extra="forbid")
    format: Literal[1]
    origin: Annotated[str, Field(max_length=1000)]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    picture: DeclaredPicture | None = None
    text: DeclaredText | None = None


def read_source(
    source: Path,
    *,
    torchscript: Path | None = None,
    sample: Path | None = None,
    table: GivenTable | None = None,
) -> Source:
    """Read the files of a network.

    Args:
        source: an ONNX file, or the folder of an export.
        torchscript: a TorchScript file of the same network.
        sample: an .npz file with rows of every input by name.
        table: how rows with named columns become the inputs, in place of what an export says.

    Raises:
        AddError: a file cannot be read, or has another format.
    """
    is_export = (source / EXPORT_FILE).is_file()
    network = _read_export(source, table) if is_export else replace(_read_onnx(source), table=table)
    if torchscript:
        content = read_file(torchscript)
        script = TorchFile(_shown(torchscript), content, "torchscript", required=True)
        network = replace(network, torch=script)
    if sample:
        network = replace(network, samples=read_arrays(sample), samples_file=sample)
    return network


def _read_onnx(file: Path) -> Source:
    content, weights = with_weights(file, read_file(file, MAX_ONNX_BYTES))
    content, labels = repaired(content)
    content, is_widened = computable(content, weights)
    notes = [NOTE] if is_widened else []
    return Source(_shown(file), content, labels=labels, notes=notes, weights=weights)


def _read_export(folder: Path, table: GivenTable | None) -> Source:
    try:
        stated = _Export.model_validate_json(read_file(folder / EXPORT_FILE, _MAX_EXPORT_BYTES))
    except ValidationError as error:
        raise AddError(
            f"{folder / EXPORT_FILE}: it is no export of this release "
            f"({error.errors()[0]['msg']}): export the network again"
        ) from error
    records = _read_records(folder, "samples-", "answers-")
    onnx, notes = _read_onnx(folder / MODEL_FILES["onnx"]), stated.notes
    table = table or read_given(folder)
    if table and table.values and records:
        table = table._replace(made=records[0].samples, answers=records[0].answers)
    elif any(has_nan(record.samples) for record in records):
        records = [_whole(record) for record in records]
        notes += ("Rows that lack numbers are left out of its checks.",)
    return Source(
        onnx.file,
        onnx.onnx,
        _torch_file(folder),
        samples=dict(records[0].samples) if records else None,
        samples_file=Path("the sample"),
        records=records,
        further=_read_records(folder, "further-", "further-answers-"),
        origin=stated.origin,
        labels=stated.labels or onnx.labels,
        notes=(*notes, *onnx.notes),
        pictures=_read_pictures(folder, stated.picture) if stated.picture else None,
        texts=_read_texts(folder, stated.text) if stated.text else None,
        weights=onnx.weights,
        table=table,
    )


def _whole(record: Record) -> Record:
    """Return the rows without NaN; all rows if the first axis does not count them everywhere."""
    arrays = [*record.samples.values(), *record.answers.values()]
    if not record.samples or len({array.shape[:1] for array in arrays}) > 1:
        return record
    whole = rows_without_nan(record.samples)
    return Record(
        *(
            {name: array[whole] for name, array in one.items()}
            for one in (record.samples, record.answers)
        )
    )


def _read_records(folder: Path, samples: str, answers: str) -> list[Record]:
    """Return the records in the numbered files that begin so."""
    found: list[Record] = []
    while (file := folder / f"{samples}{len(found) + 1}.npz").is_file():
        own = folder / f"{answers}{len(found) + 1}.npz"
        found.append(Record(read_arrays(file), read_arrays(own)))
    return found


def _torch_file(folder: Path) -> TorchFile | None:
    """Return the file of torch in an export, if there is one."""
    runtimes: tuple[RuntimeName, ...] = ("torchscript", "pt2")
    for runtime in runtimes:
        file = folder / MODEL_FILES[runtime]
        if file.is_file():
            return TorchFile(file.name, read_file(file), runtime, required=False)
    return None


def _read_pictures(folder: Path, declared: DeclaredPicture) -> Pictures:
    files: list[bytes] = []
    while (file := folder / f"picture-{len(files) + 1}.png").is_file():
        files.append(read_file(file))
    transformed = folder / "transformed.npz"
    rows = read_arrays(transformed)["rows"] if transformed.is_file() else None
    return Pictures(declared, files, rows)


def _read_texts(folder: Path, declared: DeclaredText) -> Texts:
    found = read_arrays(folder / "text-answers.npz")
    answers: list[dict[str, NDArray[Any]]] = [{} for _ in declared.texts]
    for key, array in found.items():
        number, _, name = key.partition(".")
        answers[int(number)][name] = array
    return Texts(declared, read_file(folder / TOKENIZER_FILE), answers)


def _shown(file: Path) -> str:
    return escaped(file.name)
