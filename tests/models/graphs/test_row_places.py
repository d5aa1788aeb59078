"""Places that a graph computes lie in their own row, for any number of rows, or are refused.

`test_row_dependence.py` has whole networks of this kind.
"""

import pytest

from models.graphs.row_places import Places, picked
from models.graphs.row_rules import MixesError, Rows


def test_places_in_their_own_row_keep_the_rows_apart() -> None:
    assert picked(Rows(0, inner=4), (12,), Places(0, step=4, least=0, most=3)) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "shape", "places"),
    [
        (Rows(0, inner=4), (12,), Places(0, step=4, least=-1, most=3)),
        (Rows(0, inner=4), (12,), Places(0, step=4, least=0, most=4)),
        (Rows(0, inner=4), (12,), Places(0, step=3, least=0, most=2)),
        (Rows(0, inner=4), (12,), Places(0, step=8, least=0, most=3)),
        (Rows(0, outer=2, inner=4), (24,), Places(0, step=4, least=0, most=3)),
        (Rows(0), (3, 4), Places(0, step=1, least=0, most=0)),
        (Rows(1), (4, 3), Places(0, step=1, least=0, most=0)),
        (None, (12,), Places(0, step=4, least=0, most=3)),
    ],
)
def test_places_that_may_be_in_another_row_are_refused(
    rows: Rows | None, shape: tuple[int, ...], places: Places
) -> None:
    with pytest.raises(MixesError, match="picks some of the rows"):
        picked(rows, shape, places)
