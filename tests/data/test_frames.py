"""Tables in memory: pandas, polars and Arrow read the same way as a Parquet file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.data.tables import read_table, table_of
from lightning_distill.errors import ManifestError

COLUMNS: dict[str, list[Any]] = {
    "text": ["a", "", None, "NA"],
    "number": [1, 2, None, 2**53 + 1],
    "weight": [0.1, 1.0, None, 1e22],
    "flag": [True, False, None, True],
    "tags": [["x", "y"], [], None, ["z"]],
}
EXPECTED = {
    "text": ["a", None, None, "NA"],
    "number": ["1", "2", None, str(2**53 + 1)],
    "weight": ["0.1", "1", None, "1e+22"],
    "flag": ["true", "false", None, "true"],
    "tags": ["x|y", "-", None, "z"],
}


class OnlyTheProtocol:
    """A table of a library that nobody heard of."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


def from_parquet(path: Path) -> Any:
    pq.write_table(pa.table(COLUMNS), path / "m.parquet")
    return path / "m.parquet"


FRAMES: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pd.DataFrame({name: pd.Series(c, dtype=object) for name, c in COLUMNS.items()}),
    "pandas_arrow": lambda: pa.table(COLUMNS).to_pandas(types_mapper=pd.ArrowDtype),
    "polars": lambda: pl.DataFrame(COLUMNS, strict=False),
    "polars_lazy": lambda: pl.LazyFrame(COLUMNS, strict=False),
    "arrow": lambda: pa.table(COLUMNS),
    "chunks": lambda: pa.concat_tables([pa.table(COLUMNS).slice(0, 1), pa.table(COLUMNS).slice(1)]),
    "reader": lambda: pa.table(COLUMNS).to_reader(max_chunksize=3),
    "protocol": lambda: OnlyTheProtocol(pa.table(COLUMNS)),
}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_all_kinds_of_tables_say_the_same(make: Callable[[], Any]) -> None:
    table = table_of(make(), list(COLUMNS), ["domain"])
    assert {name: cells.to_pylist() for name, cells in table.columns.items()} == EXPECTED
    assert table.where(1, "text") == "table, row 2, column 'text'"
    assert len(table) == 4


def test_a_parquet_file_says_the_same(tmp_path: Path) -> None:
    table = read_table(from_parquet(tmp_path), list(COLUMNS))
    assert {name: cells.to_pylist() for name, cells in table.columns.items()} == EXPECTED


def test_nan_is_an_empty_cell_and_whole_numbers_with_gaps_stay_whole(tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": [1, np.nan, 3], "low": np.array([0.1, np.nan, 2], np.float32)})
    pq.write_table(
        pa.table({"low": pa.array([0.1, float("nan"), 2.0], pa.float32())}), tmp_path / "m.parquet"
    )
    table = table_of(frame, ["label", "low"])
    assert table.columns["label"].to_pylist() == ["1", None, "3"]
    assert table.columns["low"].to_pylist() == ["0.1", None, "2"]
    assert table_of(pl.DataFrame({"a": [0.5, float("nan")]}), ["a"]).columns["a"].to_pylist() == ["0.5", None]
    assert read_table(tmp_path / "m.parquet", ["low"]).columns["low"].to_pylist() == ["0.1", None, "2"]


@given(
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=20), st.sampled_from([np.float32, np.float64])
)
def test_numbers_read_back_as_the_same(numbers: list[float], kind: Any) -> None:
    with np.errstate(over="ignore"):
        values = np.array(numbers, np.float64).astype(kind)
    cells = table_of(pa.table({"a": values}), ["a"]).columns["a"].to_pylist()
    assert np.array([*map(float, cells)]).astype(kind).tobytes() == values.tobytes()


def test_categories_are_their_names() -> None:
    names = ["x", "y", None, "x"]
    for frame in (
        pd.DataFrame({"a": pd.Categorical(names)}),
        pl.DataFrame({"a": pl.Series(names, dtype=pl.Categorical)}),
        pl.DataFrame({"a": pl.Series(names, dtype=pl.Enum(["x", "y"]))}),
        pa.table({"a": pa.array(names).dictionary_encode()}),
    ):
        assert table_of(frame, ["a"]).columns["a"].to_pylist() == names


def test_lists_of_the_other_kinds_are_joined() -> None:
    for kind in (pa.large_list(pa.large_string()), pa.list_(pa.string(), 2), pa.list_(pa.string_view())):
        column = pa.array([["a", "b"], None, ["c", "d"]], kind)
        assert table_of(pa.table({"a": column}), ["a"]).columns["a"].to_pylist() == ["a|b", None, "c|d"]


def test_an_index_is_no_column_and_rows_count_from_one() -> None:
    frame = pd.DataFrame({"a": ["x", "y", "z"]}, index=pd.Index(["p", "q", "r"], name="id"))[1:]
    table = table_of(frame, ["a"])
    assert (table.columns["a"].to_pylist(), table.line.tolist()) == (["y", "z"], [1, 2])
    with pytest.raises(ManifestError, match="no column 'id'"):
        table_of(frame, ["id"])


def test_columns_that_nobody_wants_may_hold_anything() -> None:
    things = [object(), object()]
    assert len(table_of(pd.DataFrame({"a": ["x", "y"], "b": things, 3: things}), ["a"])) == 2
    assert len(table_of(pl.DataFrame({"a": ["x", "y"], "b": pl.Series(things, dtype=pl.Object)}), ["a"])) == 2


BAD: dict[str, tuple[Any, str, str]] = {
    "mixed": (
        pd.DataFrame({"a": [None, "x", 1]}, dtype=object),
        "table, row 3, column 'a'",
        "type int, after str",
    ),
    "objects": (pd.DataFrame({"a": [None, Path("x")]}), "table, column 'a'", "Path"),
    "bytes": (pd.DataFrame({"a": [b"x"]}), "table, column 'a'", "binary"),
    "dates": (pl.DataFrame({"a": [date(2020, 1, 1)]}), "table, column 'a'", "date32"),
    "periods": (pd.DataFrame({"a": pd.period_range("2020", periods=2)}), "table, column 'a'", "period"),
    "numbers": (pl.DataFrame({"a": [[1, 2]]}), "table, column 'a'", "list<"),
    "separator": (pl.DataFrame({"a": [["x"], ["y|z"]]}), "table, row 2, column 'a'", "'y|z'"),
    "nul": (pl.DataFrame({"a": ["x", "\0"]}), "table, row 2, column 'a'", "NUL"),
    "twice": (pd.DataFrame([["x", "y"]], columns=["a", "a"]), "table, header", "positions 1, 2"),
    "no_rows": (pl.DataFrame({"a": pl.Series([], dtype=pl.String)}), "table", "0 rows"),
    "dict": ({"a": ["x"]}, "table", "type dict"),
    "none": (None, "table", "type NoneType"),
    "lazy": (pl.LazyFrame({"b": ["x"]}).select("a"), "table", "LazyFrame"),
    "half": (
        pd.DataFrame({"a": pd.Series(["x", "\ud83d"], dtype=object)}),
        "table, column 'a'",
        "surrogate",
    ),
}


@pytest.mark.parametrize(("frame", "where", "word"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_refused(frame: Any, where: str, word: str) -> None:
    with pytest.raises(ManifestError) as caught:
        table_of(frame, ["a"])
    assert caught.value.where == where
    assert word in str(caught.value)


def test_arrow_tables_need_neither_pandas_nor_polars(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    assert table_of(OnlyTheProtocol(pa.table({"a": ["x"]})), ["a"]).columns["a"].to_pylist() == ["x"]
