"""The model card: the machine-readable description of a package's network.

`ModelCard` is the schema of `card.json`: the inputs and outputs, the training, the evaluation, the
parity of the exported files with the network, and the digest of every file. No field is written by
hand: `training/` and `models/add.py` measure and write the values, `service/` reads them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, model_validator
from pydantic.dataclasses import dataclass

from models.answers import LabelsSpec, NumberSpec
from models.batch_axes import BatchAxes, row_axis, row_shape, shape_of_network
from models.padding import PaddingSpec
from models.pictures import PictureSpec
from models.tokens import TextSpec

SCHEMA_VERSION: Literal[1] = 1

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip
"""The tensor datatypes that a package may use, by their names in the Open Inference Protocol.

An element of BYTES is text: a `str` in an array of objects, which has a form in UTF-8.
"""

NUMPY_DTYPES: Mapping[Datatype, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}

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


def _dimension(size: int) -> int:
    if size != -1 and size < 1:
        raise ValueError(f"a dimension is at least 1, or -1 for any size, not {size}")
    return size


Dimension = Annotated[int, AfterValidator(_dimension)]
PackageName = Annotated[str, AfterValidator(_safe_name)]
PackageVersion = Annotated[str, AfterValidator(_safe_version)]
PackagePath = Annotated[str, AfterValidator(_safe_path)]


_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Part(BaseModel):
    """A part of the card. It is immutable, and refuses unknown fields and non-finite numbers.

    JSON has no infinity and no NaN, so a card with such a number could be written but not read.
    """

    model_config = ConfigDict(frozen=True, **_STRICT)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class TensorSpec:
    """An input or output, as the network has it; -1 in `shape` means any size.

    `batch_axis` is the axis of `shape` that counts the rows of a batch. None means that the rows
    share the tensor: only requests with equal values of a shared input are batched, and a shared
    output belongs to the whole computation. A network has no batch if all its inputs are so.
    `minimum` and `maximum` are the range of the usual values. With `enforced`, other values are
    refused before the computation. `labels` name the classes, the columns of the last dimension.
    `nonempty` lists the axes of any size that must not have the size 0. `max_shape` has the largest
    size of each free dimension, and the sizes of the others; None means no limit. `picture` says
    how a picture becomes a row, `answer` how a row of an output is answered in the card's terms.

    A dataclass, since every request reads some fields: the fields of a pydantic model take several
    times as long to read.
    """

    name: str
    datatype: Datatype
    shape: tuple[Dimension, ...]
    meaning: str
    minimum: float | None = None
    maximum: float | None = None
    labels: tuple[str, ...] | None = None
    enforced: bool = False
    nonempty: tuple[int, ...] = ()
    max_shape: tuple[Dimension, ...] | None = None
    picture: PictureSpec | None = None
    batch_axis: int | None = 0
    answer: LabelsSpec | NumberSpec | None = None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return row_shape(self.shape, self.batch_axis)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The numpy dtype of the tensor."""
        return NUMPY_DTYPES[self.datatype]

    def to_text(self) -> str:
        """Return the datatype and shape, as `UINT8 [-1, 28, 28]`."""
        return f"{self.datatype} {list(self.shape)}"

    def rows_first(self, rows: int) -> "TensorSpec":
        """Return the specification of the tensor with its rows first.

        Args:
            rows: the size of the batch; -1 for any.
        """
        axis = self.batch_axis
        if axis == 0:
            return self
        largest = self.max_shape
        return replace(
            self,
            shape=(rows, *self.row_shape),
            nonempty=tuple(sorted(row_axis(place, axis) for place in self.nonempty)),
            max_shape=None if largest is None else (rows, *row_shape(largest, axis)),
            batch_axis=0,
        )

    def in_network(self, axis: int | None) -> "TensorSpec":
        """Return the specification of the network's tensor, of which this one has the rows first.

        Args:
            axis: the axis of the rows in the network; None if they share the tensor.
        """
        if axis == 0:
            return self
        places = {row_axis(place, axis): place for place in range(len(self.shape)) if place != axis}
        return replace(
            self,
            shape=shape_of_network(self.shape, axis),
            nonempty=tuple(sorted(places[place] for place in self.nonempty)),
            max_shape=None if self.max_shape is None else shape_of_network(self.max_shape, axis),
            batch_axis=axis,
        )

    def takes(self, shape: Sequence[object]) -> bool:
        """Return whether a tensor may have this shape. An axis of any size may be 0 by default."""
        if len(shape) != len(self.shape):
            return False
        for size, given_size in zip(self.shape, shape, strict=True):  # `all` takes twice as long
            # The type is compared, since 1.0 and true equal 1 in Python.
            if (
                type(given_size) is not int
                or not 0 <= given_size < 2**31
                or size not in (given_size, -1)
            ):
                return False
        if self.max_shape is not None and self.too_large(shape) is not None:
            return False
        return not self.nonempty or all(shape[axis] for axis in self.nonempty)

    def too_large(self, shape: Sequence[Any]) -> int | None:
        """Return the first axis of a shape that is larger than the maximum; None if none is.

        The shape has as many whole numbers as that of the tensor.
        """
        for axis, maximum in enumerate(self.max_shape or ()):
            if maximum != -1 and shape[axis] > maximum:
                return axis
        return None

    @property
    def is_probabilities(self) -> bool:
        """Whether the stated range is 0 to 1, that of probabilities."""
        return (self.minimum, self.maximum) == (0, 1)

    @property
    def range(self) -> str:
        """The stated range as text, as `0 to 49` or `from 0`; empty if none is stated."""
        if self.minimum is not None and self.maximum is not None:
            return f"{_number(self.minimum)} to {_number(self.maximum)}"
        if self.minimum is not None:
            return f"from {_number(self.minimum)}"
        return "" if self.maximum is None else f"up to {_number(self.maximum)}"

    def first_outside(self, values: NDArray[Any]) -> np.generic | None:
        """Return the first value outside the stated range, or NaN; None if all values are inside.

        A side without a stated bound is open.
        """
        low = -np.inf if self.minimum is None else self.minimum
        high = np.inf if self.maximum is None else self.maximum
        if not values.size or (values.min() >= low and values.max() <= high):
            return None
        outside: NDArray[np.generic] = values[~((values >= low) & (values <= high))]
        return outside[0] if outside.size else None

    def expects(self, values: NDArray[Any]) -> bool:
        """Return whether all values lie in the stated range; False if a bound is not stated."""
        if self.minimum is None or self.maximum is None:
            return False
        return bool(((values >= self.minimum) & (values <= self.maximum)).all())


def _number(value: float) -> str:
    """Return a bound as text, with all digits and without `.0`."""
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


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
    """The record of how the network was trained."""

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
    column (`models.differences`). Whole numbers and truth values must be equal.
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
                    name: RecordedTensor.of(recorded[name].datatype, array)
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
    of other lengths are padded to these. Where the graph decides by values of shared inputs, each
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
    batching: Batching = "rows"
    batched_shapes: tuple[dict[str, tuple[NonNegativeInt, ...]], ...] = ()
    batched_values: tuple[dict[str, RecordedTensor], ...] = ()
    padding: PaddingSpec | None = None
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
    def _text_fits(self) -> Self:
        names = {spec.name: spec.to_text() for spec in self.inputs}
        if self.text is not None and names != dict.fromkeys(self.text.inputs, "INT64 [-1, -1]"):
            raise ValueError(
                f"a text becomes {', '.join(self.text.inputs)}, INT64 [-1, -1]; the inputs are "
                f"{', '.join(f'{name} {shape}' for name, shape in names.items())}"
            )
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
