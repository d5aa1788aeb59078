"""The model card: the machine-readable description of a package's network.

`ModelCard` is the schema of `card.json`: the inputs and outputs, the training, the evaluation, the
parity of the exported files with the network, and the digest of every file. No field is written by
hand: `training/` and `models/adding/add.py` measure and write the values, `service/` reads them.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from models.kinds.batch_axes import BatchAxes, row_shape
from models.kinds.padding import PaddingSpec
from models.kinds.split_rows import SplitSpec, plain
from models.kinds.table_columns import TableSpec
from models.kinds.table_rows import values_of_rows
from models.kinds.table_values import TableError, table_inputs
from models.kinds.tensor_spec import NUMPY_DTYPES, Datatype, TensorSpec
from models.kinds.tokens import TextSpec

SCHEMA_VERSION: Literal[1] = 1

Task = Literal["classification", "regression", "other"]
"""The purpose of a network: a class, a number, or another or unknown one, such as an embedding."""

Batching = Literal["rows", "none"]
"""Whether any rows may share a batch (`rows`), or each request is computed alone and whole."""

RuntimeName = Literal["onnx", "torchscript", "pt2"]
MODEL_FILES: Mapping[RuntimeName, str] = {
    "onnx": "model.onnx",
    "torchscript": "model.pt",
    "pt2": "model.pt2",
}
"""The file in a package that each runtime loads; `pt2` is a program of torch.export."""
WEIGHTS_FILE = "model.onnx.data"
"""The weights of `model.onnx` that are beside it, if they are too large for the file itself."""


PACKAGE_NAME_RULE = "must be 1 to 100 letters, digits, '-' or '_', and begin with a letter or digit"
"""What a package's name must be, as the rest of a sentence."""
EXAMPLE_TOLERANCE = 1e-3
"""Of a recorded prediction: it must hold on every device, and a GPU adds in another order than a
CPU."""


def is_package_name(text: str) -> bool:
    """Return whether a package, and so its folder, may have this name."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", text) is not None


def is_package_version(text: str) -> bool:
    """Return whether a package, and so its folder, may have this version."""
    return re.fullmatch(r"[1-9][0-9]{0,8}", text) is not None


def _safe_name(name: str) -> str:
    if not is_package_name(name):
        raise ValueError(f"the name {name!r} {PACKAGE_NAME_RULE}")
    return name


def _safe_version(version: str) -> str:
    if not is_package_version(version):
        raise ValueError(f"the version {version!r} must be a whole number from 1, as '1'")
    return version


def _safe_path(path: str) -> str:
    parts = path.split("/")
    if not all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", part) for part in parts):
        raise ValueError(f"the file name {path!r} must be a plain path inside the package")
    return path


PackageName = Annotated[str, AfterValidator(_safe_name)]
PackageVersion = Annotated[str, AfterValidator(_safe_version)]
PackagePath = Annotated[str, AfterValidator(_safe_path)]


_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Part(BaseModel):
    """A part of the card. It is immutable, and refuses unknown fields and non-finite numbers.

    JSON has no infinity and no NaN, so a card with such a number could be written but not read.
    """

    model_config = ConfigDict(frozen=True, **_STRICT)


class Splits(_Part):
    """The number of samples in each split."""

    train: int
    validation: int
    test: int


class DataRecord(_Part):
    """The training data. `sha256` is the digest of all arrays of all splits."""

    name: str
    summary: str
    sha256: str
    splits: Splits


class FitRecord(_Part):
    """The record of how the network was trained.

    `run_ids` has the id of the training at each tracker of experiments, by the tracker's name.
    """

    recipe: str
    setting: Literal["default", "tutorial"]
    network: str
    parameter_count: int
    hyperparameters: dict[str, bool | int | float | str | tuple[int, ...] | None]
    seed: int
    data: DataRecord
    libraries: dict[str, str]
    device: str
    epochs: int
    kept_epoch: int
    seconds: float
    run_ids: dict[str, str] = {}


class ClassReport(_Part):
    """The metrics of one class. Precision, recall and F1 are in [0, 1]."""

    label: str
    precision: float
    recall: float
    f1: float
    samples: int


class Evaluation(_Part):
    """The metrics on one split of one data set, with its number of samples."""

    data: str
    split: str
    samples: int
    metrics: dict[str, float]
    classes: tuple[ClassReport, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    """Rows are true classes, columns predicted ones."""


class SeedFigures(_Part):
    """The test metrics of one preset over several seeds."""

    setting: Literal["default", "tutorial"]
    metric: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    standard_deviation: float
    samples: int


class ParityRecord(_Part):
    """The differences between the outputs of an exported file and those of its network.

    `equal_answers` is the share of samples with the same class or, for numbers, with values within
    the tolerance.
    """

    runtime: RuntimeName
    samples: int
    batch_sizes: tuple[int, ...]
    largest_absolute_difference: float
    largest_relative_difference: float
    equal_answers: float = Field(ge=0, le=1)
    tolerance: str


class FileRecord(_Part):
    """The digest and size of one file of the package."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class RecordedTensor(_Part):
    """The values of one tensor, in row-major order."""

    datatype: Datatype
    shape: tuple[NonNegativeInt, ...]
    data: tuple[bool | int | float | str, ...]

    @classmethod
    def of(cls, datatype: Datatype, array: NDArray[Any]) -> Self:
        """Return the record of `array`, whose dtype is that of `datatype`."""
        return cls(datatype=datatype, shape=array.shape, data=tuple(array.ravel().tolist()))

    def array(self) -> NDArray[Any]:
        """Return the values in the recorded shape and datatype."""
        return np.array(self.data, NUMPY_DTYPES[self.datatype]).reshape(self.shape)

    @model_validator(mode="after")
    def _is_a_tensor(self) -> Self:
        if any(isinstance(value, str) != (self.datatype == "BYTES") for value in self.data):
            raise ValueError(
                f"{self.datatype} holds {'texts' if self.datatype == 'BYTES' else 'numbers'} alone"
            )
        try:
            self.array()
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"the values are no {self.datatype} {list(self.shape)}: {error}"
            ) from error
        return self


class Example(_Part):
    """A recorded prediction of the network. Every runtime must reproduce it on loading.

    `tolerance` is the largest difference of each output element, relative to the magnitude of its
    column (`models.runtimes.differences`). Whole numbers and truth values must be equal.
    """

    inputs: dict[str, RecordedTensor]
    outputs: dict[str, RecordedTensor]
    tolerance: float = Field(gt=0)

    def rows_first(self, axes: BatchAxes) -> "Example":
        """Return the example of a network as it is with the rows first."""
        inputs = {name: tensor.array() for name, tensor in self.inputs.items()}
        outputs = {name: tensor.array() for name, tensor in self.outputs.items()}
        rows = axes.count_rows(inputs) or 0
        return self._with(
            axes.inputs_rows_first(inputs, rows), axes.outputs_rows_first(outputs, rows)
        )

    def in_network(self, axes: BatchAxes) -> "Example":
        """Return an example with the rows first in the network's layout."""
        inputs = {name: tensor.array() for name, tensor in self.inputs.items()}
        outputs = {name: tensor.array() for name, tensor in self.outputs.items()}
        return self._with(axes.inputs_of_network(inputs), axes.outputs_of_network(outputs))

    def _with(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> "Example":
        """Return the example with other arrays, of the same datatypes."""
        return self.model_copy(
            update={
                kind: {
                    name: RecordedTensor.of(recorded[name].datatype, plain(array))
                    for name, array in arrays.items()
                }
                for kind, recorded, arrays in (
                    ("inputs", self.inputs, inputs), ("outputs", self.outputs, outputs),
                )
            }
        )  # fmt: skip


class ModelCard(_Part):
    """The description of a package's network.

    `batching` is `none` where a row's answer is not proved to be the same whatever rows are beside
    it; `limits` says why. Where inputs have free dimensions, it is proved for the
    `batched_shapes` only: the shapes of the inputs by name, without the batch. With `padding`, rows
    of other lengths are padded to these. With `split`, outputs are divided among the rows by an
    index. Where the graph decides by values of shared inputs, each
    of these shapes is proved with the values at its place in `batched_values` only. `optimized` is
    false where ONNX Runtime computes other outputs after it has rewritten the graph. `text` says
    how a text becomes the inputs; None for other networks.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: PackageName
    version: PackageVersion
    summary: str
    task: Task
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    text: TextSpec | None = None
    table: TableSpec | None = None
    batching: Batching = "rows"
    batched_shapes: tuple[dict[str, tuple[NonNegativeInt, ...]], ...] = ()
    batched_values: tuple[dict[str, RecordedTensor], ...] = ()
    padding: PaddingSpec | None = None
    split: SplitSpec | None = None
    optimized: bool = True
    fit: FitRecord | None = None
    evaluations: tuple[Evaluation, ...] = ()
    seeds: tuple[SeedFigures, ...] = ()
    parity: tuple[ParityRecord, ...] = ()
    example: Example
    intended_use: str
    limits: tuple[str, ...] = ()
    files: dict[PackagePath, FileRecord] = {}

    @property
    def runtimes(self) -> tuple[RuntimeName, ...]:
        """The runtimes for which the package has a file."""
        return tuple(runtime for runtime, file in MODEL_FILES.items() if file in self.files)

    @property
    def fixed_batch(self) -> int | None:
        """The number of rows that the files compute at a time; None for any number."""
        for spec in self.inputs:
            if spec.batch_axis is not None:
                size = spec.shape[spec.batch_axis]
                return None if size == -1 else size
        return 1

    @property
    def has_free_dimensions(self) -> bool:
        """Whether a row of some input may have several shapes."""
        return any(-1 in spec.row_shape for spec in self.inputs)

    @cached_property
    def axes(self) -> BatchAxes:
        """The axes of the batch."""
        return BatchAxes(
            {spec.name: spec.batch_axis for spec in self.inputs},
            {spec.name: spec.batch_axis for spec in self.outputs},
            self.split,
        )

    @cached_property
    def is_rows_first(self) -> bool:
        """Whether every tensor has the batch as its first axis."""
        return self.axes.is_rows_first

    @cached_property
    def rows_first(self) -> "ModelCard":
        """The card of the network as the checks and the service compute it: with the rows first."""
        if self.is_rows_first:
            return self
        rows = self.fixed_batch or -1
        return self.model_copy(
            update={
                "inputs": tuple(spec.rows_first(rows) for spec in self.inputs),
                "outputs": tuple(spec.rows_first(rows) for spec in self.outputs),
                "example": self.example.rows_first(self.axes),
            }
        )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the card; what was derived from the fields is derived again."""
        copy = super().model_copy(update=update, deep=deep)
        for derived in ("axes", "is_rows_first", "rows_first"):
            copy.__dict__.pop(derived, None)
        return copy

    @model_validator(mode="after")
    def _batched_shapes_fit(self) -> Self:
        rows = self.fixed_batch or 1
        for shapes in self.batched_shapes:
            fit = shapes.keys() == {spec.name for spec in self.inputs} and all(
                spec.rows_first(rows).takes((rows, *shapes[spec.name])) for spec in self.inputs
            )
            if not fit:
                raise ValueError(f"the batched shapes {shapes} are none of the inputs")
        if self.batched_values and len(self.batched_values) != len(self.batched_shapes):
            raise ValueError("the batched values are not as many as the batched shapes")
        return self

    @model_validator(mode="after")
    def _example_fits(self) -> Self:
        """Check that the example, which every runtime repeats, fits the inputs and outputs."""
        for kind, specs, tensors in (
            ("inputs", self.inputs, self.example.inputs),
            ("outputs", self.outputs, self.example.outputs),
        ):
            if {spec.name for spec in specs} != set(tensors):
                expected = ", ".join(spec.name for spec in specs)
                raise ValueError(
                    f"the example's {kind} are {', '.join(tensors)}; the card says {expected}"
                )
            for spec in specs:
                tensor = tensors[spec.name]
                if tensor.datatype != spec.datatype or not spec.takes(tensor.shape):
                    raise ValueError(
                        f"{spec.name} is {tensor.datatype} {list(tensor.shape)} in the example; "
                        f"the card says {spec.to_text()}"
                    )
        return self

    @model_validator(mode="after")
    def _split_fits(self) -> Self:
        """Check that divided outputs have no axis of the batch, and the example one row."""
        if self.split is None:
            return self
        whole = {spec.name: spec for spec in self.outputs if spec.batch_axis is None}
        index = whole.get(self.split.index)
        ranks = (1, 2) if self.split.column is None else (2,)
        if index is None or set(self.split.outputs) != set(whole) or len(index.shape) not in ranks:
            raise ValueError(f"the outputs that are divided are {', '.join(self.split.outputs)}")
        rows = {len(self.example.inputs[spec.name].array()) for spec in self.inputs}
        if rows != {1} or any(spec.batch_axis != 0 for spec in self.inputs):
            raise ValueError("outputs are divided, and the example is not of one row")
        return self

    @model_validator(mode="after")
    def _text_fits(self) -> Self:
        names = {spec.name: spec.to_text() for spec in self.inputs}
        if self.text is not None and names != dict.fromkeys(self.text.inputs, "INT64 [-1, -1]"):
            raise ValueError(
                f"a text becomes {', '.join(self.text.inputs)}, INT64 [-1, -1]; the inputs are "
                f"{', '.join(f'{name} {shape}' for name, shape in names.items())}"
            )
        return self

    @model_validator(mode="after")
    def _table_fits(self) -> Self:
        """Check that the table fills the inputs, and still makes the recorded rows of its own."""
        if self.table is None:
            return self
        if self.text is not None:
            raise ValueError("the inputs are made of a text, and of a table")
        if misfit := self.table.mismatch(self.inputs):
            raise ValueError(misfit)
        try:
            values = values_of_rows(self.table, self.table.example)
            made = table_inputs(self.table, values, self.inputs)
        except TableError as error:
            raise ValueError(f"the example of the table does not fit it: {error}") from error
        for name, recorded in self.example.inputs.items():
            wanted = recorded.array()
            equal = made[name].shape == wanted.shape and (
                np.allclose(made[name], wanted, rtol=1e-5, atol=1e-5)
                if wanted.dtype.kind == "f"
                else np.array_equal(made[name], wanted)
            )
            if not equal:
                raise ValueError(f"the example of the table becomes another {name} than recorded")
        return self

    @model_validator(mode="after")
    def _one_batch(self) -> Self:
        """Check that all inputs and outputs have the same number of rows."""
        tensors = (*self.inputs, *self.outputs)
        sizes: dict[str, int] = {}
        for spec in tensors:
            if spec.batch_axis is None:
                continue
            if not 0 <= spec.batch_axis < len(spec.shape):
                raise ValueError(f"{spec.name} has no axis {spec.batch_axis} for the batch")
            sizes[spec.name] = spec.shape[spec.batch_axis]
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{size} of {name}" for name, size in sizes.items())
            raise ValueError(
                f"the dimensions of the batch are {listed}; the batch must be one for all"
            )
        if sizes and not self.axes.has_batch:
            raise ValueError("an output has an axis for the batch, and no input has one")
        return self

    @model_validator(mode="after")
    def _max_shapes_fit(self) -> Self:
        for spec in (*self.inputs, *self.outputs):
            if spec.max_shape is None:
                continue
            axis, largest = spec.batch_axis, spec.max_shape
            free = replace(spec, max_shape=None, shape=(-1, *spec.row_shape), nonempty=())
            fits = len(largest) == len(spec.shape) and (
                axis is None or largest[axis] == spec.shape[axis]
            )
            if not fits or not free.takes((1, *row_shape(largest, axis))):
                raise ValueError(
                    f"the largest shape of {spec.name} is {list(spec.max_shape)}; its shape is "
                    f"{list(spec.shape)}"
                )
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        for spec in (*self.inputs, *self.outputs):
            if spec.labels is not None and spec.shape[-1:] != (len(spec.labels),):
                raise ValueError(
                    f"{spec.name} has {len(spec.labels)} labels; "
                    f"its last dimension is {spec.shape[-1] if spec.shape else 'missing'}"
                )
        return self
