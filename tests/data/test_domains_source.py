"""Several sources as one: ids, classes told by name, weights, presence; parts of sources; hidden labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_distill.data import DomainsSource, DomainSubset, ManifestSource, PartlyLabelled
from lightning_distill.data.source import DataSource
from lightning_distill.errors import ConfigError
from lightning_distill.structures import UNKNOWN, UNLABELLED
from tests.builders import CLASSES, VectorSource
from tests.data.domains import vectors

BOTH = ("a", "b")


def join(*sources: DataSource, modalities: Any = None) -> DomainsSource:
    parts = {f"d{at}": source for at, source in enumerate(sources)}
    return DomainsSource(parts, ["d1"], modalities or dict.fromkeys(parts, BOTH))


def targets(source: VectorSource, values: Any) -> VectorSource:
    source._table = replace(source.samples, target=values)
    return source


def test_rows_of_one_source_follow_those_of_the_other() -> None:
    first, second = vectors(5000, train=4, val=2), vectors(7000, train=3, val=1, absent={"b": [0]})
    both = join(first, second)
    table = both.samples
    assert table.sample_id.tolist() == [*range(5000, 5006), *range(7000, 7004)]
    assert table.domain.tolist() == [0] * 6 + [1] * 4
    assert table.split.tolist() == [0] * 4 + [1] * 2 + [0] * 3 + [1]
    assert table.present["b"].tolist() == [True] * 6 + [False, True, True, True]
    assert np.array_equal(both.load("a", 7), second.vectors["a"][1])
    assert both.describe(7) == "domain 'd1', row 1"
    rows = np.array([8, 0, 3])
    own = [second.contents(np.array([2]), BOTH), first.contents(np.array([0, 3]), BOTH)]
    assert np.array_equal(both.contents(rows, BOTH), np.concatenate(own))
    assert (both.classes, both.domains, both.in_target.tolist()) == (CLASSES, ("d0", "d1"), [False, True])


def test_a_modality_that_is_not_read_of_a_part_is_absent_there() -> None:
    both = join(vectors(train=2, val=1), vectors(train=2, val=0), modalities={"d0": ["a"], "d1": ["a", "b"]})
    assert both.samples.present["b"].tolist() == [False] * 3 + [True] * 2
    assert both.samples.present["a"].all()
    assert both.modalities == ("a", "b")


def test_classes_are_told_by_name() -> None:
    first = vectors(train=3, val=0)
    other = vectors(train=3, val=0, classes=("cat", "ant", "bee"))
    few = targets(vectors(train=2, val=0, classes=("cat", "bee")), np.array([1, 0]))
    new = targets(vectors(train=2, val=0, classes=("yak", "bee")), np.array([UNLABELLED, 1]))
    assert join(first, other, few, new).samples.target.tolist() == [0, 1, 2, 2, 0, 1, 1, 2, UNLABELLED, 1]


def test_a_class_the_source_lacks_is_named() -> None:
    new = targets(vectors(train=4, val=0, classes=("yak", "bee")), np.array([0, 1, 0, UNLABELLED]))
    with pytest.raises(
        ConfigError, match=r"domain 'd1': found 2 rows .* that 'd0' lacks: 'yak'; expected .*'ant'"
    ):
        join(vectors(), new)


def test_targets_must_be_of_one_kind() -> None:
    numbers = np.array([[0.0, 1.0], [2.0, np.nan]], np.float32)
    with pytest.raises(ConfigError, match="domain 'd1': found 2 numbers, where 'd0' has one class a sample"):
        join(vectors(), targets(vectors(train=2, val=0), numbers))
    wide = targets(vectors(train=2, val=0), np.zeros((2, 3), np.float32))
    with pytest.raises(ConfigError, match="found 3 numbers, where 'd0' has 2 numbers"):
        join(targets(vectors(train=2, val=0), numbers), wide)
    labels = np.array([[1, 0, UNKNOWN], [0, 1, 1]], np.int8)
    one, other = (
        targets(vectors(train=2, val=0, classes=names), labels) for names in (CLASSES, ("cat", "ant", "bee"))
    )
    assert join(one, other).samples.target[2:].tolist() == [[0, UNKNOWN, 1], [1, 1, 0]]
    strange = targets(vectors(train=2, val=0, classes=("ant", "bee", "yak")), labels)
    with pytest.raises(
        ConfigError, match=r"the columns 'ant', 'bee', 'yak', where 'd0' has 'ant', 'bee', 'cat'"
    ):
        join(one, strange)


def test_rows_weigh_1_where_a_part_has_no_weights() -> None:
    weighted = vectors(train=2, val=0, table={"weight": np.array([0.5, 2.0], np.float32)})
    assert join(vectors(train=1, val=1), weighted).samples.weight.tolist() == [1, 1, 0.5, 2]
    assert join(vectors(train=1, val=1), vectors(train=1, val=0)).samples.weight.tolist() == []


def test_the_fingerprint_follows_parts_names_and_roles() -> None:
    def of(parts: dict[str, DataSource], adapted: list[str]) -> str:
        return DomainsSource(parts, adapted, dict.fromkeys(parts, BOTH)).fingerprint

    one, other = vectors(), vectors(7000)
    plain = of({"x": one, "y": other}, ["y"])
    assert plain == of({"x": vectors(), "y": vectors(7000)}, ["y"])
    changed = [
        of({"x": one, "z": other}, ["z"]),
        of({"x": one, "y": other}, ["x"]),
        of({"x": one, "y": vectors(7001)}, ["y"]),
    ]
    assert len({plain, *changed}) == 4


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        f"text {i},{'ab'[i % 2]},{('new', 'old', 'far')[i % 3]},{'train' if i < 6 else 'val'}"
        for i in range(9)
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["text,label,domain,split", *rows]))
    return path


def test_a_subset_holds_the_rows_of_its_domains(table: Path) -> None:
    source = ManifestSource(table, {"text": "text"})
    subset = DomainSubset(source, ["old", "far"])
    assert subset.domains == ("old", "far")
    rows = [i for i in range(9) if i % 3]
    assert [subset.load("text", at) for at in range(6)] == [f"text {i}" for i in rows]
    assert subset.samples.domain.tolist() == [
        ("old", "far").index(("new", "old", "far")[i % 3]) for i in rows
    ]
    assert subset.samples.target.tolist() == [i % 2 for i in rows]
    assert subset.samples.split.tolist() == [int(i >= 6) for i in rows]
    assert np.array_equal(subset.samples.sample_id, source.samples.sample_id[rows])
    assert subset.describe(1) == source.describe(2)
    assert np.array_equal(subset.contents(np.arange(6), ["text"]), source.contents(np.array(rows), ["text"]))
    assert subset.fingerprint != DomainSubset(source, ["old"]).fingerprint
    both = join(DomainSubset(source, ["new"]), subset, modalities={"d0": ["text"], "d1": ["text"]})
    assert sorted(both.samples.sample_id) == sorted(source.samples.sample_id)


@pytest.mark.parametrize("names", [[], ["old", "old"], ["odl"]])
def test_a_domain_that_is_not_there_is_refused(table: Path, names: list[str]) -> None:
    source = ManifestSource(table, {"text": "text"})
    with pytest.raises(ConfigError, match=r"DomainSubset.domains.*each once") as caught:
        DomainSubset(source, names)
    assert ("did you mean 'old'" in str(caught.value)) == (names == ["odl"])


def test_labels_are_hidden_but_for_a_few_of_each_class() -> None:
    source = vectors(train=30, val=12)
    whole = source.samples
    before = whole.target.copy()
    kept = {}
    for per_class in (0, 2, 4, 99):
        found = PartlyLabelled(source, per_class).samples
        known = found.target != UNLABELLED
        assert np.array_equal(found.target[known], whole.target[known])
        for rows in (whole.rows_of("train"), whole.rows_of("val")):
            counts = np.bincount(found.target[rows][known[rows]], minlength=3)
            assert counts.tolist() == [min(per_class, len(rows) // 3)] * 3
        kept[per_class] = set(np.flatnonzero(known).tolist())
    assert kept[0] < kept[2] < kept[4] < kept[99]
    assert np.array_equal(whole.target, before)
    others = PartlyLabelled(source, 2, seed=1).samples.target != UNLABELLED
    assert set(np.flatnonzero(others).tolist()) != kept[2]


def test_labels_of_other_splits_stay() -> None:
    source = vectors(train=6, val=6)
    source._table = replace(source.samples, split=np.repeat([0, 1, 2], 4).astype(np.int8))
    assert (PartlyLabelled(source).samples.target == UNLABELLED).tolist() == [True] * 8 + [False] * 4
    only = PartlyLabelled(source, splits=("test",))
    assert (only.samples.target == UNLABELLED).tolist() == [False] * 8 + [True] * 4
    assert only.fingerprint != source.fingerprint
    assert np.array_equal(only.load("a", 3), source.load("a", 3))
    assert only.describe(3) == source.describe(3)
    rows = np.array([3, 1])
    assert np.array_equal(only.contents(rows, BOTH), source.contents(rows, BOTH))


def test_other_kinds_of_labels_are_hidden_as_a_whole() -> None:
    numbers = targets(vectors(train=2, val=0), np.ones((2, 2), np.float32))
    assert np.isnan(PartlyLabelled(numbers).samples.target).all()
    labels = targets(vectors(train=2, val=0), np.ones((2, 3), np.int8))
    assert (PartlyLabelled(labels).samples.target == UNKNOWN).all()
    with pytest.raises(ConfigError, match=r"per_class: found 1, and targets with several values"):
        PartlyLabelled(labels, 1)
    with pytest.raises(ConfigError, match="per_class: found -1"):
        PartlyLabelled(vectors(), -1)
    with pytest.raises(ConfigError, match=r"splits: found trian"):
        PartlyLabelled(vectors(), splits=("trian",))
