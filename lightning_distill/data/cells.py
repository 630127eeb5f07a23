"""Cells of one column: looked up, checked, as NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.tables import TextTable, first_true
from lightning_distill.errors import ManifestError


def index_in(cells: Any, names: Sequence[str]) -> NDArray[np.int64]:
    """The position of each cell in `names`, -1 where there is none.

    >>> import pyarrow as pa
    >>> index_in(pa.array(["b", None, "z"], pa.large_string()), ["a", "b"]).tolist()
    [1, -1, -1]
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(cells, value_set=pa.array(names, pa.large_string()))
    return to_numpy(pc.fill_null(found, -1)).astype(np.int64)


def to_numpy(array: Any) -> NDArray[Any]:
    """An Arrow array as NumPy, copied where that cannot be avoided."""
    return np.asarray(array.to_numpy(zero_copy_only=False))


def refuse_blanks(table: TextTable, column: str) -> None:
    """Refuse names with blanks around them, which look like another name.

    Raises:
        ManifestError: Names the first such row.
    """
    import pyarrow.compute as pc

    cells = table.columns[column]
    row = first_true(pc.not_equal(pc.utf8_trim_whitespace(cells), cells))
    if row is not None:
        raise ManifestError(
            where=table.where(row, column),
            found=f"{cells[row].as_py()!r}, with blanks around it",
            expected="a name without blanks around it",
            fix="remove the blanks",
        )


def refuse_empty(table: TextTable, column: str, what: str) -> None:
    """Refuse empty cells in a column that must be filled.

    Raises:
        ManifestError: Names the first such row, and `what` it should hold.
    """
    row = first_true(table.columns[column].is_null())
    if row is not None:
        raise ManifestError(
            where=table.where(row, column),
            found="an empty cell",
            expected=what,
            fix=f"fill it ({table.columns[column].null_count} rows are empty), or name another column",
        )
