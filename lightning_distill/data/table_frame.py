"""Tables in memory read as text: pandas, polars, and whatever speaks Arrow. None of them is imported here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.table_types import to_text
from lightning_distill.errors import ManifestError

FRAME: Final = "table"
"""What errors call a table in memory."""


def read_frame(
    frame: Any, choose: Callable[[list[str]], list[str]]
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Read some columns of a table in memory as text, by the rules of `to_text`. An index is no column.

    Args:
        frame: pandas DataFrame, polars DataFrame or LazyFrame, Arrow table or reader, or any object with the
            method `__arrow_c_stream__`. A reader is used up.
        choose: Gets the names of all columns and gives those to read.

    Returns:
        Column name -> Arrow string array, and the number of each row, counted from 1.

    Raises:
        ManifestError: If it is no table, or a column has a type without plain text.
    """
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(frame, pandas.DataFrame):
        names = [str(name) for name in frame.columns]
        columns = {name: _from_series(name, frame.iloc[:, names.index(name)]) for name in choose(names)}
        rows = len(frame)
    else:
        table = _arrow(frame)
        columns, rows = {name: table.column(name) for name in choose(table.column_names)}, table.num_rows
    return {name: to_text(FRAME, name, column) for name, column in columns.items()}, np.arange(1, rows + 1)


def _arrow(frame: Any) -> Any:
    import pyarrow as pa

    try:
        if hasattr(frame, "collect") and not hasattr(frame, "__arrow_c_stream__"):
            frame = frame.collect()
        if not hasattr(frame, "__arrow_c_stream__"):
            raise TypeError(f"{type(frame).__name__} has no __arrow_c_stream__")
        table = pa.table(frame)
        table.validate(full=True)
        return table
    except Exception as error:  # any error of any library: what a lazy table will do is not known
        raise ManifestError(
            where=FRAME,
            found=f"an object of type {type(frame).__name__} that cannot be read ({error})",
            expected="a pandas, polars or Arrow table",
            fix="make one of these of it, for example pandas.DataFrame(rows)",
        ) from error


def _from_series(name: str, series: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.array(series, from_pandas=True)
    except (pa.ArrowException, ValueError, TypeError) as error:
        filled = series[series.notna()]
        kinds = [type(value).__name__ for value in filled]
        at = next((at for at, kind in enumerate(kinds) if kind != kinds[0]), None)
        row = "" if at is None else f", row {np.flatnonzero(series.notna())[at] + 1}"
        after = "" if at is None else f", after {kinds[0]}"
        raise ManifestError(
            where=f"{FRAME}{row}, column {name!r}",
            found=f"values of type {kinds[at or 0]}{after} ({error})",
            expected="text or numbers, of one kind a column",
            fix=f"convert the column, for example frame[{name!r}].astype('string')",
        ) from error
