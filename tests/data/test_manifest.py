"""What a manifest means: cells as text, ids by content, splits, classes, domains, unlabelled rows."""

from __future__ import annotations

import csv
import pickle
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from lightning_distill.data import (
    DataSource,
    GroupSplit,
    ManifestColumns,
    ManifestSource,
    RandomSplit,
    SingleLabel,
    Waveform,
)
from lightning_distill.data.tables import read_table
from lightning_distill.errors import ConfigError, ManifestError
from lightning_distill.structures import UNLABELLED

TEXT = {"text": "text"}


def write(folder: Path, content: str, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8", newline="")
    return path


def write_rows(folder: Path, rows: list[list[str]], name: str = "m.csv") -> Path:
    out = StringIO(newline="")
    csv.writer(out).writerows(rows)
    return write(folder, out.getvalue(), name)


def texts_of(source: ManifestSource) -> list[str]:
    return [source.load("text", row) for row in range(len(source.samples))]


def test_labels_that_look_like_something_else_stay_text(tmp_path: Path) -> None:
    labels = ["NA", "007", "None", "null", "nan", "1e5", "1_000", "2024-01-02", "true"]
    source = ManifestSource(write_rows(tmp_path, [["text", "label"], *([f"t{x}", x] for x in labels)]), TEXT)
    assert source.classes == tuple(sorted(labels))
    assert [source.classes[i] for i in source.samples.target] == labels


def test_byte_order_mark_and_crlf_are_accepted(tmp_path: Path) -> None:
    source = ManifestSource(write(tmp_path, "\ufefftext,label\r\na,x\r\n\r\nb,y\r\n"), TEXT)
    assert texts_of(source) == ["a", "b"]
    assert source.describe(1) == f"{tmp_path / 'm.csv'}, row 4"


def test_rows_are_numbered_by_the_line_they_start_on(tmp_path: Path) -> None:
    source = ManifestSource(write(tmp_path, 'text,label\n"two\nlines",x\n\nb,y\n"c",x'), TEXT)
    assert texts_of(source) == ["two\nlines", "b", "c"]
    assert [source.describe(row).split()[-1] for row in range(3)] == ["2", "5", "6"]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_any_text_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("round_trip")
    names = ("a", "b")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    pq.write_table(pa.table(columns), folder / "m.parquet")
    paths = write_rows(folder, [list(names), *map(list, rows)]), folder / "m.parquet"
    for path in paths:
        table = read_table(path, names)
        assert {n: [c or "" for c in table.columns[n].to_pylist()] for n in names} == columns


@given(st.lists(st.sampled_from(["a", '"', '""', '"x"', ",", "\n", "\r\n", "\r", "é", ' "'])))
def test_what_is_accepted_is_read_as_the_csv_module_reads_it(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    """Rows and lines equal the standard library's strict reader, which differs only in refusing less."""
    content = "x,y\n" + "".join(parts)
    expected, line = [], 0
    reader = csv.reader(StringIO(content, newline=""), strict=True)
    try:
        for row in reader:
            expected += [(line + 1, row)] if row else []
            line = reader.line_num
        expected = expected[1:] if all(len(row) == 2 for _, row in expected) else []
    except csv.Error:
        expected = []
    try:
        table = read_table(write(tmp_path_factory.mktemp("structure"), content), ["x", "y"])
    except ManifestError:
        return
    columns = [table.columns[n].to_pylist() for n in "xy"]
    found = [(int(n), [x or "", y or ""]) for n, x, y in zip(table.line, *columns, strict=True)]
    assert found == expected


def test_empty_cells_mean_absent_and_unlabelled(tmp_path: Path) -> None:
    rows = [["a", "b", "label"], ["1", "", "x"], ["", "2", ""], ["3", "", "y"]]
    source = TwoTexts(write_rows(tmp_path, rows), {"one": "a", "two": "b"}, allow_absent=True)
    assert source.samples.present["one"].tolist() == [True, False, True]
    assert source.samples.present["two"].tolist() == [False, True, False]
    assert source.samples.target.tolist() == [0, UNLABELLED, 1]
    assert source.modalities == ("one", "two")


class TwoTexts(ManifestSource):
    def load(self, modality: str, row: int) -> object:
        return self.cell(modality, row) if modality in ("one", "two") else super().load(modality, row)


def test_a_subclass_reads_its_own_modality(tmp_path: Path) -> None:
    path = write(tmp_path, "one,label\n5,x\n6,y\n")
    assert TwoTexts(path, {"one": "one"}).load("one", 1) == "6"
    with pytest.raises(ConfigError, match="subclass ManifestSource"):
        ManifestSource(path, {"one": "one"})
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        ManifestSource(path, {"imag": "one"})


def test_ids_follow_content_not_order(tmp_path: Path) -> None:
    rows = [["a", "b", "label"], ["1", "p", "x"], ["2", "q", "y"], ["3", "", "x"]]
    ids = TwoTexts(write_rows(tmp_path, rows), {"one": "a", "two": "b"}).samples.sample_id
    turned = [["label", "b", "a"], *([c, b, a] for a, b, c in reversed(rows[1:]))]
    again = TwoTexts(write_rows(tmp_path, turned, "n.csv"), {"two": "b", "one": "a"}).samples.sample_id
    swapped = TwoTexts(write_rows(tmp_path, rows), {"two": "a", "one": "b"}).samples.sample_id
    assert ids.dtype == np.int64
    assert ids.tolist() == again[::-1].tolist()
    assert not set(ids) & set(swapped)


def test_rows_added_later_do_not_move_the_others(tmp_path: Path) -> None:
    rows = [[f"text {i}", "xyz"[i % 3]] for i in range(3000)]
    before = ManifestSource(write_rows(tmp_path, [["text", "label"], *rows[::2]]), TEXT).samples
    after = ManifestSource(write_rows(tmp_path, [["text", "label"], *rows], "n.csv"), TEXT).samples
    assert (after.split[::2] == before.split).all()
    np.testing.assert_allclose(np.bincount(after.split) / 3000, [0.8, 0.1, 0.1], atol=0.02)
    more = ManifestSource(tmp_path / "n.csv", TEXT, splitter=RandomSplit(0.3, 0.1)).samples
    assert ((more.split == 2) == (after.split == 2)).all()


def test_splits_by_name(tmp_path: Path) -> None:
    names = ["train", "val", "validation", "valid", "dev", "test"]
    rows = [["text", "label", "split"], *([f"t{i}", "xy"[i % 2], n] for i, n in enumerate(names))]
    source = ManifestSource(write_rows(tmp_path, rows), TEXT)
    assert source.samples.split.tolist() == [0, 1, 1, 1, 1, 2]


def test_domains_are_read_where_there_are_any(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label,domain,place\na,x,web,n\nb,y,book,s\nc,x,web,n\n")
    source = ManifestSource(path, TEXT)
    assert (source.domains, source.samples.domain.tolist()) == (("book", "web"), [1, 0, 1])
    assert ManifestSource(path, TEXT, columns=ManifestColumns(domain="place")).domains == ("n", "s")
    plain = ManifestSource(write(tmp_path, "text,label\na,x\nb,y\n", "n.csv"), TEXT)
    assert (plain.domains, plain.samples.domain.tolist()) == (("default",), [0, 0])


def test_whole_numbers_are_classes_in_the_order_of_their_values(tmp_path: Path) -> None:
    labels = [10, 2, 0, None, 1]
    table = pa.table({"text": list("abcde"), "label": pa.array(labels, pa.int32())})
    pq.write_table(table, tmp_path / "m.parquet")
    source = ManifestSource(tmp_path / "m.parquet", TEXT)
    assert source.classes == ("0", "1", "2", "10")
    assert source.samples.target.tolist() == [3, 2, 0, UNLABELLED, 1]
    assert source.describe(4).endswith("m.parquet, row 5")


def test_parquet_dictionaries_large_strings_and_null_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["a", "", None], pa.large_string()),
            "label": pa.array(["x", "y", "x"]).dictionary_encode(),
            "other": pa.array(["p", "q", "r"]),
            "none": pa.nulls(3),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    source = TwoTexts(tmp_path / "m.parquet", {"one": "text", "two": "other"}, allow_absent=True)
    assert source.samples.present["one"].tolist() == [True, False, False]
    assert source.samples.target.tolist() == [0, 1, 0]
    none = TwoTexts(tmp_path / "m.parquet", {"two": "other"}, SingleLabel("none", ["x", "y"]))
    assert (none.samples.target == UNLABELLED).all()


def test_classes_may_be_named_in_their_order(tmp_path: Path) -> None:
    source = ManifestSource(
        write(tmp_path, "text,label\na,x\nb,y\n"), TEXT, SingleLabel(classes=["y", "z", "x"])
    )
    assert (source.classes, source.samples.target.tolist()) == (("y", "z", "x"), [2, 0])


def test_images_and_sounds_are_found_from_the_root(tmp_path: Path) -> None:
    (tmp_path / "media" / "ünï code").mkdir(parents=True)
    image = np.full((4, 5, 3), 200, np.uint8)
    cv2.imwrite(str(tmp_path / "media" / "ünï code" / "a b.png"), image)
    soundfile.write(tmp_path / "media" / "s.wav", np.zeros(80), 8000)
    path = write(tmp_path, "picture,sound,label\nünï code/a b.png,s.wav,x\n,s.wav,y\n")
    source = ManifestSource(path, {"image": "picture", "audio": "sound"}, root=tmp_path / "media")
    assert (source.load("image", 0) == image).all()
    sound = source.load("audio", 1)
    assert isinstance(sound, Waveform)
    assert (len(sound.samples), sound.sample_rate) == (80, 8000)
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.load("image", 0) == image).all()


def test_the_same_sample_in_two_splits_is_warned_of(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label,split\na,x,train\nb,y,train\na,x,test\n")
    with pytest.warns(UserWarning, match=r"rows 2 \(train\) and 4 \(test\)"):
        ManifestSource(path, TEXT)


def test_it_is_built_from_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, "words,kind\na,x\nb,y\n")
    parser = ArgumentParser()
    parser.add_subclass_arguments(DataSource, "source")
    config = f"""
source:
  class_path: lightning_distill.data.ManifestSource
  init_args:
    path: {path}
    modalities: {{text: words}}
    target: {{class_path: SingleLabel, init_args: {{column: kind}}}}
    splitter: {{class_path: GroupSplit, init_args: {{column: words}}}}
"""
    source = parser.instantiate_classes(parser.parse_string(config)).source
    assert isinstance(source, ManifestSource)
    assert source.classes == ("x", "y")
    assert isinstance(source.layout.splitter, GroupSplit)


def test_a_hundred_thousand_rows_open_fast_and_a_wide_cell_is_no_obstacle(tmp_path: Path) -> None:
    rows = [f'"text, {i}",{i % 7}\n' for i in range(100_000)]
    rows[500] = f'"{"w" * 3_000_000}",1\n'
    source = ManifestSource(write(tmp_path, "text,label\n" + "".join(rows)), TEXT)
    assert len(source.samples) == 100_000
    assert source.load("text", 99_999) == "text, 99999"
    assert len(source.load("text", 500)) == 3_000_000
