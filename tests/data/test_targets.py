"""Labels of a table: one class, any number of classes, numbers. Fault rows L1, L2, L4, L5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.data import MultiLabel, RegressionTarget, SingleLabel, Target
from lightning_distill.data.tables import TextTable, read_table
from lightning_distill.errors import ConfigError, DistillError, ManifestError
from lightning_distill.structures import UNKNOWN, UNLABELLED


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("targets")


def table(folder: Path, *cells: str, column: str = "y") -> TextTable:
    path = folder / "m.csv"
    path.write_text("\n".join(["x," + column, *(f'a,"{cell}"' for cell in cells)]))
    return read_table(path, ["x", column])


def fault(folder: Path, target: Target, *cells: str) -> DistillError:
    with pytest.raises(ManifestError) as caught:
        target.read(table(folder, *cells))
    assert all((caught.value.found, caught.value.expected, caught.value.fix))
    return caught.value


def test_one_class_a_row(folder: Path) -> None:
    names, values = SingleLabel("y").read(table(folder, "10", "9", "", "9"))
    assert names == ("9", "10")
    assert values.dtype == np.int64
    assert values.tolist() == [1, 0, UNLABELLED, 0]
    assert SingleLabel("y", ["9", "8", "10"]).read(table(folder, "10", "9")).values.tolist() == [2, 0]


@pytest.mark.parametrize("cell", ["2", "-1", "1.0", "01", "one"])
def test_L2_labels_that_are_no_class(folder: Path, cell: str) -> None:
    error = fault(folder, SingleLabel("y", ["0", "1"]), "0", "1", cell, cell)
    assert error.where.endswith("m.csv, row 4, column 'y'")
    assert repr(cell) in error.found
    assert "2 unknown" in error.found
    assert "0, 1" in error.expected


@pytest.mark.parametrize("cell", ["1 ", " 1", "\t1"])
def test_L2_blanks_around_a_label(folder: Path, cell: str) -> None:
    assert "blanks" in fault(folder, SingleLabel("y", ["0", "1"]), "0", cell).found


def test_any_number_of_classes(folder: Path) -> None:
    names, values = MultiLabel("y").read(table(folder, "b|a", "c", "", "-"))
    assert names == ("a", "b", "c")
    assert values.dtype == np.int8
    assert values.tolist() == [[1, 1, 0], [0, 0, 1], [UNKNOWN] * 3, [0, 0, 0]]
    other = MultiLabel("y", separator=";", classes=["c", "b", "a"], none="none")
    assert other.read(table(folder, "a;c", "none")).values.tolist() == [[1, 0, 1], [0, 0, 0]]


@given(st.lists(st.one_of(st.none(), st.sets(st.sampled_from("abcd"))), min_size=1, max_size=12))
def test_L4_multilabel_is_what_was_written(folder: Path, rows: list[set[str] | None]) -> None:
    cells = ["" if row is None else "|".join(sorted(row)) or "-" for row in rows]
    names, values = MultiLabel("y", classes=list("abcd")).read(table(folder, *cells))
    assert names == tuple("abcd")
    for row, found in zip(rows, values, strict=True):
        assert found.tolist() == ([UNKNOWN] * 4 if row is None else [int(c in row) for c in "abcd"])


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("a|a", "twice"),
        ("a||b", "empty"),
        ("|a", "empty"),
        ("a| b", "blanks"),
        ("a|z", "'z'"),
        ("a|-", "'-'"),
    ],
)
def test_L4_multilabel_faults(folder: Path, cell: str, word: str) -> None:
    error = fault(folder, MultiLabel("y", classes=["a", "b"]), "a|b", "", cell)
    assert error.where.endswith("row 4, column 'y'")
    assert word in error.found


def test_numbers(folder: Path) -> None:
    names, values = RegressionTarget(["y"]).read(table(folder, "1", "-2.5e1", "", "+.5"))
    assert names == ("y",)
    assert values.dtype == np.float32
    assert np.array_equal(values, np.float32([[1], [-25], [np.nan], [0.5]]), equal_nan=True)


@given(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=9))
def test_numbers_are_read_to_the_last_bit(folder: Path, numbers: list[float]) -> None:
    values = RegressionTarget(["y"]).read(table(folder, *map(repr, numbers))).values
    assert np.array_equal(values[:, 0], np.float32(numbers))


@pytest.mark.parametrize(
    "cell", ["nan", "NaN", "inf", "-Infinity", "1e99", "abc", "1,5", "1_000", "0x1p3", "1 2", "."]
)
def test_L5_what_is_no_finite_number(folder: Path, cell: str) -> None:
    error = fault(folder, RegressionTarget(["y"]), "1", "", cell)
    assert error.where.endswith("row 4, column 'y'")
    assert repr(cell) in error.found


def test_settings_that_make_no_sense() -> None:
    for make in (
        lambda: SingleLabel(classes=["a"]),
        lambda: SingleLabel(classes=["a", "b", "a"]),
        lambda: MultiLabel(classes=[]),
        lambda: MultiLabel(separator=""),
        lambda: MultiLabel(classes=["-", "a"]),
        lambda: RegressionTarget([]),
        lambda: RegressionTarget(["x", "x"]),
    ):
        with pytest.raises(ConfigError):
            make()
