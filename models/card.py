"""The model card: what a package says of its network, in one machine-readable form.

`ModelCard` is `card.json`. It says what goes in and comes out, how the network was fitted, how
good it is, how its exported files were proved equal to it, and the digest of every file. Nothing
in it is typed by hand: `training/` measures and writes it, `service/` reads it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, model_validator
from pydantic.dataclasses import dataclass

SCHEMA_VERSION: Literal[1] = 1

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64",
]  # fmt: skip
"""The Open Inference Protocol's names of the tensor datatypes that a package may use."""

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
}

Task = Literal["classification", "regression", "other"]
"""What a network is for: a class, a number, or what is neither or not known, as an embedding."""

Batching = Literal["rows", "none"]
"""What may be computed together: any rows, or no request with others, and none in parts."""

RuntimeName = Literal["onnx", "torchscript"]
MODEL_FILES: Mapping[RuntimeName, str] = {"onnx": "model.onnx", "torchscript": "model.pt"}
"""The file of a package that each runtime loads."""


def is_package_name(text: str) -> bool:
    """Whether a package, and so its folder, may have this name."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", text) is not None


def is_package_version(text: str) -> bool:
    """Whether a package, and so its folder, may have this version."""
    return re.fullmatch(r"[1-9][0-9]{0,8}", text) is not None


def _safe_name(name: str) -> str:
    if not is_package_name(name):
        raise ValueError(
            f"the name {name!r} must be 1 to 100 letters, digits, '-' or '_', "
            "and begin with a letter or digit"
        )
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
    """A part of the card: immutable, strict about fields that it does not know, and finite.

    JSON has no infinity and no NaN: a card that held one could be written and never read.
    """

    model_config = ConfigDict(frozen=True, **_STRICT)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class TensorSpec:
    """One input or output. The first dimension of `shape` is the batch; -1 means any size.

    `minimum` and `maximum` say which values are usual; with `enforced`, others are refused before
    they are computed. `labels` name the classes, which are the last dimension.

    A dataclass, of which every request reads some fields: those of a pydantic model take several
    times as long to read.
    """

    name: str
    datatype: Datatype
    shape: tuple[Dimension, ...] = Field(min_length=1)
    meaning: str
    minimum: float | None = None
    maximum: float | None = None
    labels: tuple[str, ...] | None = None
    enforced: bool = False

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The numpy dtype of the tensor."""
        return NUMPY_DTYPES[self.datatype]

    def describe(self) -> str:
        """Datatype and shape on one line, as `UINT8 [-1, 28, 28]`."""
        return f"{self.datatype} {list(self.shape)}"

    def takes(self, shape: Sequence[object]) -> bool:
        """Whether a tensor of this shape is one of these; a dimension of any size may be 0."""
        if len(shape) != len(self.shape):
            return False
        for size, found in zip(self.shape, shape, strict=True):  # `all` takes twice as long
            # By its type: to Python, 1.0 and true are 1.
            if type(found) is not int or not 0 <= found < 2**31 or size not in (found, -1):
                return False
        return True

    @property
    def is_probabilities(self) -> bool:
        """Whether the range that is stated is that of probabilities."""
        return (self.minimum, self.maximum) == (0, 1)

    @property
    def range(self) -> str:
        """The range as words, as `0 to 49` or `from 0`; empty where none is stated."""
        if self.minimum is not None and self.maximum is not None:
            return f"{_number(self.minimum)} to {_number(self.maximum)}"
        if self.minimum is not None:
            return f"from {_number(self.minimum)}"
        return "" if self.maximum is None else f"up to {_number(self.maximum)}"

    def first_outside(self, values: NDArray[Any]) -> np.generic | None:
        """The first value outside the range that is stated, NaN included; None where there is none.

        A bound that is not stated bounds nothing.
        """
        low = -np.inf if self.minimum is None else self.minimum
        high = np.inf if self.maximum is None else self.maximum
        if not values.size or (values.min() >= low and values.max() <= high):
            return None
        outside: NDArray[np.generic] = values[~((values >= low) & (values <= high))]
        return outside[0] if outside.size else None

    def expects(self, values: NDArray[Any]) -> bool:
        """Whether all values lie in the range that is stated; not where none is."""
        if self.minimum is None or self.maximum is None:
            return False
        return bool(((values >= self.minimum) & (values <= self.maximum)).all())


def _number(value: float) -> str:
    """A bound with all of its digits, and no `.0`."""
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


class Splits(_Part):
    """How many samples each split holds."""

    train: int
    validation: int
    test: int


class DataRecord(_Part):
    """The data that the network was fitted on; `sha256` is over every array of every split."""

    name: str
    summary: str
    sha256: str
    splits: Splits


class FitRecord(_Part):
    """How the network was fitted."""

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
    """How one class fares. Precision, recall and F1 are in [0, 1]."""

    label: str
    precision: float
    recall: float
    f1: float
    samples: int


class Evaluation(_Part):
    """Figures on one split of one data set, with how many samples they rest on."""

    data: str
    split: str
    samples: int
    metrics: dict[str, float]
    classes: tuple[ClassReport, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    """Rows are true classes, columns predicted ones."""


class SeedFigures(_Part):
    """The test figures of one setting over several seeds."""

    setting: Literal["default", "tutorial"]
    metric: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    standard_deviation: float
    samples: int


class ParityRecord(_Part):
    """How far one exported file is from the network that it came from.

    `equal_answers` is the share of samples with the same class, or, for numbers, with a value
    within the tolerance.
    """

    runtime: RuntimeName
    samples: int
    batch_sizes: tuple[int, ...]
    largest_absolute_difference: float
    largest_relative_difference: float
    equal_answers: float = Field(ge=0, le=1)
    tolerance: str


class FileRecord(_Part):
    """Digest and size of one file of the package."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class RecordedTensor(_Part):
    """The values of one tensor, row-major."""

    datatype: Datatype
    shape: tuple[NonNegativeInt, ...]
    data: tuple[bool | int | float, ...]

    @classmethod
    def of(cls, datatype: Datatype, array: NDArray[Any]) -> Self:
        """Record `array`, whose dtype is that of `datatype`."""
        return cls(datatype=datatype, shape=array.shape, data=tuple(array.ravel().tolist()))

    def array(self) -> NDArray[Any]:
        """The values, in the recorded shape and datatype."""
        return np.array(self.data, NUMPY_DTYPES[self.datatype]).reshape(self.shape)

    @model_validator(mode="after")
    def _is_a_tensor(self) -> Self:
        try:
            self.array()
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"the values are no {self.datatype} {list(self.shape)}: {error}"
            ) from error
        return self


class Example(_Part):
    """One recorded prediction of the network itself; every load of a file must reproduce it.

    `tolerance` bounds the difference of each output element, relative to the magnitude of its
    column (`models.differences`); whole numbers and truth values are the same.
    """

    inputs: dict[str, RecordedTensor]
    outputs: dict[str, RecordedTensor]
    tolerance: float = Field(gt=0)


class ModelCard(_Part):
    """Everything that a package says of its network.

    `batching` is `none` where a row's answer is not proved to be the same whatever rows are beside
    it; `limits` says why.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: PackageName
    version: PackageVersion
    summary: str
    task: Task
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    batching: Batching = "rows"
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
        """The runtimes that the package has a file for."""
        return tuple(runtime for runtime, file in MODEL_FILES.items() if file in self.files)

    @property
    def fixed_batch(self) -> int | None:
        """How many rows the files compute at a time; None where they take any number."""
        size = self.inputs[0].shape[0]
        return None if size == -1 else size

    @model_validator(mode="after")
    def _example_fits(self) -> Self:
        """What a runtime repeats is the example: so the example must be as specified."""
        for kind, specs, tensors in (
            ("inputs", self.inputs, self.example.inputs),
            ("outputs", self.outputs, self.example.outputs),
        ):
            if {spec.name for spec in specs} != set(tensors):
                said = ", ".join(spec.name for spec in specs)
                raise ValueError(
                    f"the example's {kind} are {', '.join(tensors)}; the card says {said}"
                )
            for spec in specs:
                tensor = tensors[spec.name]
                if tensor.datatype != spec.datatype or not spec.takes(tensor.shape):
                    raise ValueError(
                        f"{spec.name} is {tensor.datatype} {list(tensor.shape)} in the example; "
                        f"the card says {spec.describe()}"
                    )
        return self

    @model_validator(mode="after")
    def _one_batch(self) -> Self:
        """A row of every input makes a row of every output."""
        tensors = (*self.inputs, *self.outputs)
        if len({spec.shape[0] for spec in tensors}) > 1:
            found = ", ".join(f"{spec.shape[0]} of {spec.name}" for spec in tensors)
            raise ValueError(f"the first dimensions are {found}; the batch must be one for all")
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        for spec in (*self.inputs, *self.outputs):
            if spec.labels is not None and len(spec.labels) != spec.shape[-1]:
                raise ValueError(
                    f"{spec.name} has {len(spec.labels)} labels; "
                    f"its last dimension is {spec.shape[-1]}"
                )
        return self
