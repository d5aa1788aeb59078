"""Outputs of as many entries as the values say, divided among the rows of a batch by an index.

A network that detects objects in a batch of pictures gives the objects one after another, as [M, 7]
or as several outputs [M, …]. One column, or an output of its own, names the row of each. Requests
can share a batch, since each gets the entries of its own rows, with the index counted among these.

With the rows first, a divided output is an array of objects [rows]: the entries of each row, with
an index of 0, as the row has them alone. In the network's layout, the entries are one after
another, row by row. A divided output whose rows have one shape may also be a plain array [rows, …].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

Arrays = Mapping[str, NDArray[Any]]


class SplitError(ValueError):
    """Outputs whose index does not divide them among the rows. The message is a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SplitSpec:
    """Which outputs are divided, and by which index.

    Attributes:
        index: the output that names the row of each entry.
        column: the column of the index in that output, [M, columns]; None for an output [M] or
            [M, 1] of its own.
        outputs: the outputs with one entry for each entry of the index, with the index itself.
    """

    index: str
    column: int | None
    outputs: tuple[str, ...]

    def rows_of(self, outputs: Arrays, rows: int) -> dict[str, NDArray[Any]]:
        """Return the divided outputs as arrays of objects [rows], of outputs of the network.

        Args:
            outputs: of the network.
            rows: the number of rows that were computed.

        Raises:
            SplitError: the index names another row, or the outputs have unlike numbers of entries.
        """
        places = self.places(outputs)
        counts = {name: len(outputs[name]) for name in self.outputs}
        if set(counts.values()) != {len(places)}:
            raise SplitError(f"the outputs have {counts} entries, and the index {len(places)}")
        whole = places.astype(np.int64)
        if not np.array_equal(whole, places) or np.any((whole < 0) | (whole >= rows)):
            raise SplitError(
                f"the index {self.index} names no row of the {rows} that were computed"
            )
        order = np.argsort(whole, kind="stable")
        ends = np.searchsorted(whole[order], np.arange(rows), side="right")
        return {
            name: _divided(self._with_index(name, outputs[name][order], 0), ends)
            for name in self.outputs
        }

    def joined(self, outputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the divided outputs as the network has them: the entries of all rows in order."""
        found = {}
        for name in self.outputs:
            parts = [*outputs[name]]
            places = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
            found[name] = self._with_index(name, np.concatenate(parts), places)
        return found

    def places(self, outputs: Arrays) -> NDArray[Any]:
        """Return the index of each entry, [M], in outputs of the network."""
        index = outputs[self.index]
        return index.reshape(len(index)) if self.column is None else index[:, self.column]

    def _with_index(
        self, name: str, entries: NDArray[Any], places: NDArray[np.integer] | int
    ) -> NDArray[Any]:
        """Return entries, which are written to if they hold the index."""
        if name == self.index:
            column = entries[:, self.column] if self.column is not None else entries.reshape(-1)
            column[:] = places
        return entries


def _divided(entries: NDArray[Any], ends: NDArray[np.integer]) -> NDArray[Any]:
    """Return the parts of an array that end at these places, as views."""
    rows = np.empty(len(ends), object)
    start = 0
    for row, end in enumerate(ends.tolist()):
        rows[row] = entries[start:end]
        start = end
    return rows


def is_divided(array: NDArray[Any]) -> bool:
    """Return whether an array holds the entries of rows; others of objects hold texts."""
    return (
        array.dtype == object
        and array.ndim == 1
        and len(array) > 0
        and isinstance(array[0], np.ndarray)
    )


def parts_of(array: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Return the entries of each row, if an array holds entries; else the array alone."""
    return [*array] if is_divided(array) else (array,)


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return divided entries as a plain array, if all rows have one shape; else the array."""
    if is_divided(array) and len({part.shape for part in array}) == 1:
        return np.stack([*array])
    return array
