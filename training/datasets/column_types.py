"""The columns of a table: compact arrays whose types are inferred chunk by chunk, or stated.

Numbers and truth values are float64 with NaN, texts are codes of categories, dates and times are
datetime64[us].
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.kinds.table_values import category_text
from training.datasets.dataset import DataError

ColumnType = Literal["number", "integer", "boolean", "category", "date", "datetime"]
TYPES: tuple[ColumnType, ...] = get_args(ColumnType)
MAX_CATEGORIES = 5_000
"""Of a column; a column with more is an identifier or free text."""
MIXED_SHARE = 0.5
"""From this share of numbers on, texts in a column are mistakes; below it, numbers are names."""
MAX_NUMBER = float(np.finfo(np.float32).max)
_DATE = r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?"
_OFFSET = r".*\d\d:\d\d.*(?:Z|[+-]\d\d:?\d\d)"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: of the column.
        type: stated or inferred.
        values: float64 with NaN; int32 codes with -1 for a missing one; or datetime64[us].
        categories: the text of each code.
        utc: whether times had offsets, and are in UTC.
    """

    name: str
    type: ColumnType
    values: NDArray[Any]
    categories: tuple[str, ...] = ()
    utc: bool = False

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Return which values are missing."""
        if self.type == "category":
            return np.asarray(self.values < 0)
        return np.asarray(pd.isna(self.values))

    def scalar(self, row: int) -> bool | int | float | str | None:
        """Return a value as JSON has it; None if it is missing."""
        value = self.values[row]
        if self.type == "category":
            return None if value < 0 else self.categories[value]
        if pd.isna(value):
            return None
        match self.type:
            case "date":
                return str(value.astype("datetime64[D]"))
            case "datetime":
                return str(value).removesuffix(".000000")
            case "boolean":
                return bool(value)
            case "integer":
                return int(value)
        return float(value)


class ColumnBuilder:
    """Takes a column in chunks, and returns it with its type.

    Args:
        name: of the column.
        stated: its type; None to infer it. Values that are none of a stated type are missing.
    """

    def __init__(self, name: str, stated: ColumnType | None = None) -> None:
        self.name = name
        self._stated = stated
        self._parts: list[tuple[str, NDArray[Any]]] = []
        self._codes: dict[str, int] = {}
        self._all_bool = True
        self._utc = False

    def add(self, chunk: "pd.Series[Any]") -> None:
        """Take the next values.

        Raises:
            DataError: they are of no type, or the column has too many categories.
        """
        if isinstance(chunk.dtype, pd.DatetimeTZDtype):
            self._utc, chunk = True, chunk.dt.tz_convert("UTC").dt.tz_localize(None)
        if chunk.isna().all():
            self._parts.append(("missing", np.full(len(chunk), np.nan)))
            return
        self._require_stated(chunk)
        if pd.api.types.is_bool_dtype(chunk.dtype):
            self._parts.append(("numbers", chunk.to_numpy(np.float64, na_value=np.nan)))
        elif pd.api.types.is_numeric_dtype(chunk.dtype):
            self._all_bool = False
            self._parts.append(("numbers", chunk.to_numpy(np.float64, na_value=np.nan)))
        elif pd.api.types.is_datetime64_any_dtype(chunk.dtype):
            self._parts.append(("dates", chunk.to_numpy("datetime64[us]")))
        else:
            self._add_texts(chunk)

    def _require_stated(self, chunk: "pd.Series[Any]") -> None:
        """Check that a column of dates holds no numbers, and one of numbers no dates."""
        kinds = pd.api.types
        dates, numbers = kinds.is_datetime64_any_dtype(chunk), kinds.is_numeric_dtype(chunk)
        if numbers and self._stated in ("date", "datetime"):
            raise DataError(
                f"the column {self.name!r} holds numbers, as {chunk.dropna().iloc[0]}, and is no "
                f"{self._stated}: omit its --type, or write dates as 2013-05-01"
            )
        if dates and self._stated in ("number", "integer", "boolean"):
            raise DataError(
                f"the column {self.name!r} holds dates, and no {self._stated}: omit its --type"
            )

    def _add_texts(self, chunk: "pd.Series[Any]") -> None:
        try:
            codes, found = pd.factorize(chunk)
        except TypeError:
            raise DataError(
                f"the column {self.name!r} holds lists or objects: leave it out with "
                f"--leave-out {self.name}"
            ) from None
        if all(isinstance(one, bool) for one in found) and self._stated != "category":
            values = np.array([*map(float, found), np.nan])[codes]
            self._parts.append(("numbers", values))
            return
        texts = pd.Series([_text(one) for one in found], dtype=object)
        if self._stated in ("number", "integer", "boolean"):
            self._all_bool = False
            numbers = _numbers(texts, boolean=self._stated == "boolean")
            self._parts.append(("numbers", np.append(numbers, np.nan)[codes]))
            return
        if self._stated != "category":
            dates = self._dates(texts)
            if self._stated in ("date", "datetime") or not np.isnat(dates).any():
                self._parts.append(("dates", np.append(dates, np.datetime64("NaT"))[codes]))
                return
        known = self._codes
        numbers_of = [known.setdefault(text, len(known)) for text in texts]
        self._parts.append(("texts", np.array([*numbers_of, -1], np.int32)[codes]))
        if len(known) > MAX_CATEGORIES:
            self._require_one_type()
            raise DataError(
                f"the column {self.name!r} has more than {MAX_CATEGORIES:,} different texts, as "
                f"{next(iter(known))!r}: leave it out with --leave-out {self.name}"
            )

    def _dates(self, texts: "pd.Series[Any]") -> NDArray[np.datetime64]:
        dates = np.full(len(texts), np.datetime64("NaT"), "datetime64[us]")
        has_form = texts.str.fullmatch(_DATE).to_numpy(bool)
        if has_form.any():
            parsed = pd.to_datetime(
                texts[has_form], format="ISO8601", errors="coerce", utc=True
            ).dt.tz_localize(None)
            dates[has_form] = parsed.to_numpy("datetime64[us]")
            self._utc |= bool(texts[has_form].str.fullmatch(_OFFSET).any())
        return dates

    @property
    def needs_text(self) -> bool:
        """Whether categories were read as numbers or dates in some chunks, and lost their form."""
        kinds = {kind for kind, _ in self._parts}
        return "texts" in kinds and bool(kinds & {"numbers", "dates"})

    def column(self) -> Column:
        """Return the whole column.

        Raises:
            DataError: its values are of several types, infinite, or dates in the future.
        """
        if self._stated is None:
            self._require_one_type()
        kinds = {kind for kind, _ in self._parts} - {"missing"}
        if "texts" in kinds:
            codes = [
                part if kind == "texts" else np.full(len(part), -1, np.int32)
                for kind, part in self._parts
            ]
            return Column(self.name, "category", np.concatenate(codes), tuple(self._codes))
        if "dates" in kinds:
            dates = [
                part if kind == "dates" else np.full(len(part), np.datetime64("NaT"))
                for kind, part in self._parts
            ]
            return self._of_dates(np.concatenate(dates).astype("datetime64[us]"))
        values = np.concatenate([part for _, part in self._parts])
        self._parts.clear()  # the memory of a large table
        if self._stated == "integer":
            values[values != np.floor(values)] = np.nan
        elif self._stated == "boolean":
            values[(values != 0) & (values != 1)] = np.nan
        too_large = np.abs(values) > MAX_NUMBER
        if too_large.any():
            at = int(too_large.argmax())
            raise DataError(
                f"the column {self.name!r} has {values[at]} in row {at + 1}, and must have finite "
                "numbers: leave the field empty if the number is not known"
            )
        whole = bool((np.isnan(values) | (values == np.floor(values))).all())
        inferred: ColumnType = "integer" if whole else "number"
        if self._all_bool and kinds:
            inferred = "boolean"
        return Column(self.name, self._stated or inferred, values)

    def _of_dates(self, dates: NDArray[np.datetime64]) -> Column:
        now = np.datetime64(datetime.now(UTC).replace(tzinfo=None), "us") + np.timedelta64(1, "D")
        future = dates > now
        if self._stated is None and future.any():
            at = int(future.argmax())
            day = str(dates[at].astype("datetime64[D]"))
            raise DataError(
                f"the column {self.name!r} has {day} in row {at + 1}, a date in the future: "
                f"correct it, or state --type {self.name}=date if it is meant"
            )
        midnight = dates == dates.astype("datetime64[D]")
        inferred: ColumnType = "date" if (midnight | np.isnat(dates)).all() else "datetime"
        return Column(self.name, self._stated or inferred, dates, utc=self._utc)

    def _require_one_type(self) -> None:
        """Check that texts do not stand among numbers or dates.

        Raises:
            DataError: they do.
        """
        kinds = {kind for kind, _ in self._parts}
        texts = list(self._codes)
        is_number = ~np.isnan(_numbers(pd.Series(texts, dtype=object)))
        is_date = ~np.isnat(self._dates(pd.Series(texts, dtype=object)))
        numbers = sum(self._counts("numbers", is_number))
        dates = sum(self._counts("dates", is_date))
        present = numbers + dates + sum(self._counts("", ~is_number & ~is_date))
        for kind, count, fits in (("number", numbers, is_number), ("date", dates, is_date)):
            if f"{kind}s" not in kinds and not fits.any():
                continue
            if count < MIXED_SHARE * present or count == present:
                continue
            row, shown = self._first(f"{kind}s", fits)
            raise DataError(
                f"the column {self.name!r} mixes {kind}s with other values, as {shown} in row "
                f"{row}: correct these, or state --type {self.name}={kind}, by which they are "
                f"missing, or --type {self.name}=category"
            )

    def _counts(self, kind: str, texts: NDArray[np.bool_]) -> Iterator[int]:
        """Yield how many values of each part are of a kind, or are one of some texts."""
        selected = np.append(texts, False)
        for part_kind, part in self._parts:
            if part_kind == "texts":
                yield int(selected[part].sum())
            elif part_kind == kind:
                yield int((~pd.isna(part)).sum())

    def _first(self, kind: str, fits: NDArray[np.bool_]) -> tuple[int, str]:
        """Return the row, from 1, and the text of the first value that is not of a kind."""
        row, texts = 1, list(self._codes)
        others = np.append(~fits, False)
        for part_kind, part in self._parts:
            bad = others[part] if part_kind == "texts" else ~pd.isna(part)
            if part_kind not in (kind, "missing") and bad.any():
                at = int(bad.argmax())
                return row + at, repr(texts[part[at]] if part_kind == "texts" else str(part[at]))
            row += len(part)
        return row, "another"


def _text(value: Any) -> str:
    return category_text(value) if isinstance(value, str | bool | int | float) else str(value)


def _numbers(texts: "pd.Series[Any]", *, boolean: bool = False) -> NDArray[np.float64]:
    """Return the numbers that texts stand for, NaN for others."""
    if boolean:
        known = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}
        return np.asarray(texts.str.lower().map(known), np.float64)
    return np.asarray(pd.to_numeric(texts, errors="coerce"), np.float64)


def columns_of(
    chunks: Iterable[pd.DataFrame], stated: dict[str, ColumnType]
) -> dict[str, ColumnBuilder]:
    """Return the builders of all columns, which have taken all chunks.

    Raises:
        DataError: a column is of no type.
    """
    builders: dict[str, ColumnBuilder] = {}
    for chunk in chunks:
        for name in chunk.columns:
            if name not in builders:
                builders[name] = ColumnBuilder(name, stated.get(name))
            builders[name].add(chunk[name])
    return builders
