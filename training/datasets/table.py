"""A data set of rows of a table: one tensor of inputs, and the columns that it is made of."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.kinds.table_columns import CategoryColumn, TableSpec
from models.kinds.table_rows import values_of_rows
from models.kinds.table_values import table_inputs
from training.datasets.dataset import Dataset

NUMBERS, CATEGORIES = "numbers", "categories"
"""The inputs of a network for a table, of which it has one or both."""
UNKNOWN, MISSING, FIRST = 0, 1, 2
"""The codes of a category that is not known, of a missing one, and of the first known one."""


@dataclass(frozen=True, kw_only=True)
class TableDataset(Dataset):
    """Rows of a table. The inputs are float32 [N, places]: first the numbers, then the codes.

    A missing number is NaN. Codes are whole numbers.

    Attributes:
        table: the columns, each for `numbers` or `categories`, in the order of the places; its
            example has the values of the first two test rows.
        target: the name of the column that is predicted.
        periods: of each number place, the value after which it begins anew, as 12 for a month; 0
            for none.
        unit: of the target.
        notes: what the reader of the card should know, a sentence each.
    """

    table: TableSpec
    target: str
    periods: tuple[float, ...] = ()
    unit: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def numbers(self) -> int:
        """Return how many places are numbers; all others are codes."""
        return sum(column.width for column in self.table.by_input.get(NUMBERS, ()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return how many codes each place of `categories` has."""
        return tuple(
            FIRST + len(column.categories)
            for column in self.table.by_input.get(CATEGORIES, ())
            if isinstance(column, CategoryColumn)
        )

    @property
    def places(self) -> Iterator[tuple[str, slice]]:
        """Yield each column with its places in the inputs."""
        start = 0
        for name in (NUMBERS, CATEGORIES):
            for column in self.table.by_input.get(name, ()):
                yield column.name, slice(start, start + column.width)
                start += column.width

    def example_rows(self, count: int) -> Tensor:
        """Return the inputs of the example of the table, made as a service makes them."""
        values = values_of_rows(self.table, self.table.example[:count])
        arrays = table_inputs(self.table, values, self.table.inputs())
        parts = [arrays[name] for name in (NUMBERS, CATEGORIES) if name in arrays]
        return torch.cat([torch.from_numpy(part).float() for part in parts], dim=1)

    def parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return the inputs of a package for rows: numbers float32, codes int64; one or both."""
        numbers, codes = rows[:, : self.numbers], rows[:, self.numbers :].to(torch.int64)
        return tuple(part for part in (numbers.contiguous(), codes) if part.shape[1])
