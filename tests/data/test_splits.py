"""Splits by column, by chance, by class and by group: seeded, and stable when rows are added."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_distill.data import (
    ColumnSplit,
    GroupSplit,
    ManifestSource,
    RandomSplit,
    RegressionTarget,
    Splitter,
    StratifiedSplit,
)
from lightning_distill.errors import ConfigError, ManifestError

TEXT = {"text": "text"}
ROWS = [f"text {i},{'abc'[(i * i) % 3 if i % 7 else 0]},speaker {i % 40}" for i in range(3000)]


def splits(
    folder: Path, splitter: Splitter, rows: Sequence[str] = ROWS, head: str = "text,label,speaker"
) -> NDArray[np.int8]:
    path = folder / "m.csv"
    path.write_text("\n".join([head, *rows]))
    return ManifestSource(path, TEXT, splitter=splitter).samples.split


SPLITTERS = [RandomSplit(0.1, 0.2), StratifiedSplit(0.1, 0.2), GroupSplit("speaker", 0.1, 0.2)]
ALL = pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda s: type(s).__name__)


@ALL
def test_shares(tmp_path: Path, splitter: Splitter) -> None:
    shares = np.bincount(splits(tmp_path, splitter), minlength=3) / len(ROWS)
    # 40 groups: three standard deviations of a share of 0.2 are 0.19.
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.19 if isinstance(splitter, GroupSplit) else 0.03)


@ALL
def test_a_seed_of_its_own(tmp_path: Path, splitter: Splitter) -> None:
    other = type(splitter)(**_again(splitter))
    one = splits(tmp_path, splitter)
    assert np.array_equal(one, splits(tmp_path, splitter))
    assert not np.array_equal(one, splits(tmp_path, other))


def _again(splitter: Splitter) -> dict[str, Any]:
    kept = {k: v for k, v in vars(splitter).items() if k in ("column", "val_share", "test_share")}
    return {**kept, "seed": 1}


@ALL
def test_rows_appended_move_no_other(tmp_path: Path, splitter: Splitter) -> None:
    few = splits(tmp_path, splitter, ROWS[:1777])
    assert np.array_equal(splits(tmp_path, splitter)[:1777], few)


@pytest.mark.parametrize("splitter", [SPLITTERS[0], SPLITTERS[2]], ids=lambda s: type(s).__name__)
def test_rows_added_anywhere_move_no_other(tmp_path: Path, splitter: Splitter) -> None:
    order = np.random.default_rng(0).permutation(len(ROWS))
    mixed = splits(tmp_path, splitter, [ROWS[i] for i in order])
    assert np.array_equal(mixed, splits(tmp_path, splitter)[order])


def test_no_group_is_on_both_sides(tmp_path: Path) -> None:
    split = splits(tmp_path, GroupSplit("speaker", 0.2, 0.2))
    groups = np.array([row.split(",")[2] for row in ROWS])
    assert set(split) == {0, 1, 2}
    for group in set(groups):
        assert len(set(split[groups == group])) == 1


@pytest.mark.parametrize("count", [10, 57, 3000])
def test_every_class_has_its_shares(tmp_path: Path, count: int) -> None:
    rows = [f"text {i},{'' if i % 11 == 0 else 'abbccc'[i % 6]},s" for i in range(count)]
    split = splits(tmp_path, StratifiedSplit(0.1, 0.2), rows)
    labels = np.array([row.split(",")[1] for row in rows])
    for label in set(labels):
        of_class = split[labels == label]
        for at, share in ((1, 0.1), (2, 0.2)):
            assert abs((of_class == at).sum() - share * len(of_class)) <= 2


def test_equal_rows_stay_together_in_a_stratified_split(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a leak would be told
        split = splits(tmp_path, StratifiedSplit(0.3, 0.3), [row for row in ROWS[:100] for _ in range(3)])
    assert (split.reshape(100, 3) == split.reshape(100, 3)[:, :1]).all()


def test_a_column_named_otherwise_and_a_table_without_one(tmp_path: Path) -> None:
    rows = ["a,x,valid", "b,y,test", "c,x,train", "d,y,dev"]
    assert splits(tmp_path, ColumnSplit("fold"), rows, "text,label,fold").tolist() == [1, 2, 0, 1]
    with pytest.raises(ManifestError, match="no column 'fold'"):
        splits(tmp_path, ColumnSplit("fold"), rows, "text,label,part")
    by_group = splits(tmp_path, ColumnSplit(otherwise=GroupSplit("speaker", 0.2, 0.2)))
    assert np.array_equal(by_group, splits(tmp_path, GroupSplit("speaker", 0.2, 0.2)))
    assert np.array_equal(splits(tmp_path, ColumnSplit()), splits(tmp_path, RandomSplit()))


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"row 3, column 'speaker': found an empty cell"):
        splits(tmp_path, GroupSplit("speaker"), ["a,x,s", "b,y,"])
    path = tmp_path / "n.csv"
    path.write_text("text,label\n" + "".join(f"a{i},{i}\n" for i in range(9)))
    with pytest.raises(ManifestError, match="one class a row"):
        ManifestSource(path, TEXT, RegressionTarget(["label"]), splitter=StratifiedSplit())
    for shares in ((0.6, 0.4), (-0.1, 0.1), (float("nan"), 0.1), (0.1, float("nan"))):
        for make in (RandomSplit, StratifiedSplit, lambda *a: GroupSplit("g", *a)):
            with pytest.raises(ConfigError, match="test_share"):
                make(*shares)


def test_a_class_that_comes_later_moves_no_other_row_of_a_stratified_split(tmp_path: Path) -> None:
    rows = [f"text {i},{'bc'[i % 2]},s" for i in range(300)]
    before = splits(tmp_path, StratifiedSplit(0.1, 0.2), rows)
    after = splits(tmp_path, StratifiedSplit(0.1, 0.2), [*rows, "new,a,s"])
    assert np.array_equal(after[:300], before)
