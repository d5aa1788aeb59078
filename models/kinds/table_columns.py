"""The record of a table in a card: its columns in a caller's terms, and what each becomes.

A `TableSpec` is an ordered list of columns. Each names the input that it becomes a part of; the
columns of one input fill it from its first place on, in the order of the list. So the order in the
record is that of the tensors, and the order in a request does not matter. The conversion is
`models.kinds.table_values`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from models.kinds.dates import TIME_PARTS, Part, parse_date
from models.kinds.tensor_spec import TensorSpec

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
NAN: Literal["nan"] = "nan"
"""In a card, since JSON has no NaN."""
Scalar = bool | int | float | str | None
"""A value of a row."""
MAX_COLUMNS = 10_000
SHOWN = 10
"""The most categories that are listed for people."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class _Column:
    """The fields of every column.

    Attributes:
        name: as callers send it.
        input: the input of the network that the column is a part of; "" for the only input, or for
            the input with the name of the column.
        unit: as `minutes`; "" for none.
        meaning: what it is, in a few words; "" for nothing.
    """

    name: str = Field(min_length=1, max_length=200)
    input: str = ""
    unit: str = Field(default="", max_length=100)
    meaning: str = Field(default="", max_length=1000)

    def _text(self, allowed: str) -> str:
        """Return the type and what is allowed."""
        column: Any = self
        parts = [column.type, allowed, "or null" if column.missing is not None else ""]
        return ", ".join(filter(None, parts))


def ends_text(low: str | None, high: str | None) -> str:
    """Return a range in words; empty if it has no end."""
    if low is None:
        return "" if high is None else f"at most {high}"
    return f"at least {low}" if high is None else f"from {low} to {high}"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class NumberColumn(_Column):
    """A column of numbers, whole numbers, or truth values, which become 1 and 0.

    Attributes:
        minimum: smaller values are refused; None for any.
        maximum: larger values are refused; None for any.
        missing: what stands for a missing value: a number, or "nan"; None to refuse it.
    """

    type: Literal["number", "integer", "boolean"]
    minimum: float | None = None
    maximum: float | None = None
    missing: float | Literal["nan"] | None = None

    def to_text(self) -> str:
        """Return what a caller sends, as `number, 0 to 5000 miles, or null`."""
        ends = (None if end is None else f"{end:.15g}" for end in (self.minimum, self.maximum))
        return self._text(" ".join(filter(None, (ends_text(*ends), self.unit))))

    @property
    def width(self) -> int:
        """The numbers that a value becomes."""
        return 1

    @model_validator(mode="after")
    def _has_a_range(self) -> Self:
        _require_order(self.name, self.minimum, self.maximum)
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CategoryColumn(_Column):
    """A column of a limited number of texts, which become their codes or stay texts.

    A value that is a number or a truth value counts as its text in JSON: 3 and 3.0 as `3`.

    Attributes:
        categories: the known texts.
        first: the code of the first of them; the others follow.
        texts: the input takes texts (BYTES), and gets each value as it is sent.
        unknown: the code of any other text; of an input of texts, "keep" to pass it on; None to
            refuse it.
        missing: the code (or text) that stands for a missing value; "nan" for an input of
            floating-point numbers; None to refuse it.
    """

    type: Literal["category"]
    categories: tuple[str, ...] = ()
    first: int = Field(default=0, ge=-(2**31), lt=2**31)
    texts: bool = False
    unknown: int | Literal["keep"] | None = None
    missing: int | str | None = None

    def to_text(self) -> str:
        """Return what a caller sends, as `category, one of 'AA', 'UA'`."""
        shown = ", ".join(map(repr, self.categories[:SHOWN]))
        more = len(self.categories) - SHOWN
        known = f"{shown} and {more} more" if more > 0 else shown
        if self.unknown is None:
            return self._text(f"one of {known}")
        return self._text(f"any, known are {known}" if known else "any")

    @property
    def width(self) -> int:
        """The numbers that a value becomes."""
        return 1

    @cached_property
    def codes(self) -> Mapping[str, int | str]:
        """What each category becomes."""
        if self.texts:
            return {text: text for text in self.categories}
        return {text: code for code, text in enumerate(self.categories, start=self.first)}

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        codes = [self.first, self.first + max(len(self.categories), 1) - 1]
        codes += [code for code in (self.unknown, self.missing) if isinstance(code, int)]
        return min(codes), max(codes)

    @model_validator(mode="after")
    def _has_codes(self) -> Self:
        if len(set(self.categories)) < len(self.categories):
            raise ValueError(f"the column {self.name!r} has a category twice")
        if not self.categories and self.unknown is None:
            raise ValueError(f"the column {self.name!r} has no categories")
        if isinstance(self.unknown, str) != self.texts and self.unknown is not None:
            wanted = '"keep"' if self.texts else "a code"
            raise ValueError(f"of the column {self.name!r}, unknown must be {wanted} or null")
        fits = isinstance(self.missing, str) if self.texts else not isinstance(self.missing, str)
        if self.missing is not None and not (fits or (self.missing == NAN and not self.texts)):
            wanted = "a text" if self.texts else 'a code, "nan"'
            raise ValueError(f"of the column {self.name!r}, missing must be {wanted} or null")
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DateColumn(_Column):
    """A column of dates or of times of a day, which become numbers.

    Attributes:
        parts: the numbers, in this order: `days` since `epoch`, with the fraction of a day;
            `year`; `month` (1 to 12); `day` (1 to 31); `weekday` (0 for Monday to 6); `yearday`
            (1 to 366); `hour`; `minute`; `second`.
        epoch: the date that has 0 days.
        utc: a time with an offset is converted to UTC, and a time without one is in UTC; otherwise
            times are local as in training, and an offset is refused.
        minimum: earlier ones are refused; None for any.
        maximum: later ones are refused; None for any.
        missing: what stands for each part of a missing value: a number, or "nan"; None to refuse.
    """

    type: Literal["date", "datetime"]
    parts: tuple[Part, ...] = Field(default=("days",), min_length=1)
    epoch: str = "1970-01-01"
    utc: bool = False
    minimum: str | None = None
    maximum: str | None = None
    missing: float | Literal["nan"] | None = None

    def to_text(self) -> str:
        """Return what a caller sends, as `date, from 2013-01-01`."""
        utc = "in UTC, or with an offset" if self.utc and self.type == "datetime" else ""
        return self._text(", ".join(filter(None, (ends_text(self.minimum, self.maximum), utc))))

    @property
    def width(self) -> int:
        """The numbers that a value becomes."""
        return len(self.parts)

    def moment(self, text: str) -> datetime:
        """Return a date or time in ISO 8601, as the column takes it, without an offset.

        Raises:
            ValueError: the text is none; the message is the rest of a sentence about it.
        """
        return parse_date(text, is_date=self.type == "date", utc=self.utc)

    @cached_property
    def origin(self) -> np.datetime64:
        """The epoch."""
        return np.datetime64(self.moment(self.epoch), "us")

    @cached_property
    def bounds(self) -> tuple[datetime, datetime]:
        """The first and the last value."""
        return (
            datetime.min if self.minimum is None else self.moment(self.minimum),
            datetime.max if self.maximum is None else self.moment(self.maximum),
        )

    @model_validator(mode="after")
    def _has_parts(self) -> Self:
        if self.type == "date" and (times := TIME_PARTS & set(self.parts)):
            raise ValueError(f"the date {self.name!r} has no {', '.join(sorted(times))}")
        for text in (self.epoch, self.minimum, self.maximum):
            try:
                self.moment(text or self.epoch)
            except ValueError as error:
                raise ValueError(f"of the column {self.name!r}, {text!r} {error}") from None
        _require_order(self.name, *self.bounds)
        return self


Column = Annotated[NumberColumn | CategoryColumn | DateColumn, Field(discriminator="type")]
"""A column of any type."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TableSpec:
    """How a row with named columns becomes one row of the inputs.

    Attributes:
        columns: at least one; together they fill the inputs of the network.
        example: the rows of the recorded prediction, whose tensors every release must make.
    """

    columns: tuple[Column, ...] = Field(min_length=1, max_length=MAX_COLUMNS)
    example: tuple[dict[str, Scalar], ...] = ()

    @cached_property
    def by_name(self) -> "Mapping[str, NumberColumn | CategoryColumn | DateColumn]":
        """The columns by name."""
        return {column.name: column for column in self.columns}

    @cached_property
    def by_input(self) -> "Mapping[str, Sequence[NumberColumn | CategoryColumn | DateColumn]]":
        """The columns of each input, in the order of its places."""
        inputs = dict.fromkeys(column.input for column in self.columns)
        return {
            name: [column for column in self.columns if column.input == name] for name in inputs
        }

    def resolved(self, inputs: Sequence[str]) -> "TableSpec":
        """Return the table with a name for every input, where columns name none.

        Args:
            inputs: the inputs of the network.
        """

        def input_of(column: NumberColumn | CategoryColumn | DateColumn) -> str:
            return column.input or (inputs[0] if len(inputs) == 1 else column.name)

        columns = tuple(replace(column, input=input_of(column)) for column in self.columns)
        return replace(self, columns=columns)

    def code_range(self, name: str) -> tuple[int, int] | None:
        """Return the smallest and largest code of an input of codes alone; None for others."""
        columns = self.by_input[name]
        ranges = [
            column.range
            for column in columns
            if isinstance(column, CategoryColumn) and not column.texts and column.missing != NAN
        ]
        if len(ranges) < len(columns):
            return None
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def inputs(self) -> list[TensorSpec]:
        """Return the inputs as they are for a network that does not state them.

        Texts are BYTES; codes alone are INT64; all others are FP32, [-1, places].
        """
        specs = []
        for name, columns in self.by_input.items():
            texts = any(isinstance(one, CategoryColumn) and one.texts for one in columns)
            codes = self.code_range(name) is not None
            width = sum(column.width for column in columns)
            specs.append(
                TensorSpec(
                    name=name, datatype="BYTES" if texts else "INT64" if codes else "FP32",
                    shape=(-1, width), meaning="",
                )
            )  # fmt: skip
        return specs

    def mismatch(self, inputs: Sequence[TensorSpec]) -> str | None:
        """Return why the columns do not fill these inputs, as a sentence; None if they do."""
        specs = {spec.name: spec for spec in inputs}
        if extra := [column for column in self.columns if column.input not in specs]:
            return (
                f"the column {extra[0].name!r} is for the input {extra[0].input!r}, and the inputs "
                f"are {', '.join(specs)}"
            )
        for name, spec in specs.items():
            columns = self.by_input.get(name, ())
            width = sum(column.width for column in columns)
            places = spec.shape[1:] or (1,)
            if spec.batch_axis != 0 or places != (width,):
                return f"the columns give {name} {width} places, and it is {spec.to_text()}"
            for column in columns:
                if misfit := _misfit(column, spec):
                    return f"the column {column.name!r} {misfit}"
        return None

    @model_validator(mode="after")
    def _has_names(self) -> Self:
        if len(self.by_name) < len(self.columns):
            raise ValueError("two columns have one name")
        return self


def _misfit(column: NumberColumn | CategoryColumn | DateColumn, spec: TensorSpec) -> str | None:
    """Return why a column does not fit the datatype of its input, as the rest of a sentence."""
    kind = spec.dtype.kind
    is_text = isinstance(column, CategoryColumn) and column.texts
    shown = f"the input {spec.name} is {spec.datatype}"
    if is_text != (kind == "O"):
        return f"is {'text' if is_text else 'no text'}, and {shown}"
    if spec.datatype == "BF16":  # the recorded rows would be rounded to two digits
        return f"needs FP16, FP32 or FP64, and {shown}"
    if kind == "b" and column.type != "boolean":
        return f"is {column.type}, and {shown}"
    if kind in "iub" and (column.missing == NAN or column.type == "number"):
        return f"needs floating-point numbers, and {shown}"
    if isinstance(column, DateColumn):
        if spec.datatype not in ("FP32", "FP64", "INT32", "INT64"):
            return f"needs FP32, FP64, INT32 or INT64, and {shown}"
        if kind == "i" and column.type == "datetime" and "days" in column.parts:
            return f"has fractions of days, and {shown}"
    if kind in "iub" and isinstance(column.missing, float) and not column.missing.is_integer():
        return f"has {column.missing} for missing values, and {shown}"
    if isinstance(column, CategoryColumn) and kind in "iu":
        low, high = column.range
        limits = np.iinfo(np.dtype(spec.dtype))  # type: ignore[type-var]
        if low < limits.min or high > limits.max:
            return f"has codes from {low} to {high}, and {shown}"
    return None


def _require_order(name: str, low: Any, high: Any) -> None:
    if low is not None and high is not None and low > high:
        raise ValueError(f"the column {name!r} has a minimum above its maximum")
