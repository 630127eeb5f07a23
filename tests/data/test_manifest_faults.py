"""Every fault of a manifest is named with file, row and column, and how to mend it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_distill.data import ManifestColumns, ManifestSource, SingleLabel
from lightning_distill.data.media_paths import check_media
from lightning_distill.data.table_folder import read_folder
from lightning_distill.data.tables import LONGEST_CELL, TextTable, read_table
from lightning_distill.errors import ConfigError, DistillError, ManifestError, SampleError
from tests.processes import run_apart

TEXT, IMAGE = {"text": "text"}, {"image": "image"}
ROWS = "text,label\na,x\nb,y\n"
COLUMNS = ("text", "label")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def fails(kind: type[DistillError], build: Callable[[], Any], where: str, *words: str) -> None:
    """Must raise `kind` at a place that ends in `where`, saying every one of `words`."""
    with pytest.raises(kind) as caught:
        build()
    error = caught.value
    assert error.where.endswith(where), error.where
    for word in words:
        assert word in str(error), str(error)
    assert all((error.found, error.expected, error.fix))


def manifest(folder: Path, content: str | bytes, name: str = "m.csv", **options: Any) -> Callable[[], Any]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    options = {"modalities": TEXT, **options}
    return lambda: ManifestSource(path, **options)


def reads(folder: Path, content: str | bytes, name: str = "m.csv", columns: Sequence[str] = COLUMNS) -> Any:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return lambda: read_table(path, columns)


def reads_parquet(folder: Path, table: Any, columns: Sequence[str] = COLUMNS) -> Callable[[], TextTable]:
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), folder / "m.parquet")
    return lambda: read_table(folder / "m.parquet", columns)


def written(folder: Path, columns: dict[str, list[str]], suffix: str) -> Path:
    """The same table in any of the formats."""
    path, rows = folder / f"m{suffix}", list(zip(*columns.values(), strict=True))
    if suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif suffix == ".jsonl":
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="")
    else:
        out = StringIO(newline="")
        csv.writer(out, delimiter="\t" if suffix == ".tsv" else ",").writerows([list(columns), *rows])
        path.write_text(out.getvalue(), encoding="utf-8", newline="")
    return path


def test_M1_a_missing_table_names_the_nearest_file(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(ROWS)
    words = "is missing", "did you mean 'train.csv'"
    fails(ManifestError, lambda: read_table(tmp_path / "tran.csv", COLUMNS), "tran.csv", *words)
    fails(ManifestError, lambda: read_table(tmp_path / "no" / "m.csv", COLUMNS), "m.csv", "is missing")
    fails(ManifestError, lambda: ManifestSource(tmp_path / "tran.csv", TEXT), "tran.csv", *words)


def test_M1_M16_a_folder_a_pipe_a_device_and_an_unknown_suffix(tmp_path: Path) -> None:
    fails(ManifestError, lambda: read_table(tmp_path, COLUMNS), tmp_path.name, "is a folder")
    os.mkfifo(tmp_path / "m.csv")
    fails(ManifestError, lambda: read_table(tmp_path / "m.csv", COLUMNS), "m.csv", "pipe")
    fails(ManifestError, lambda: read_table(Path("/dev/zero"), COLUMNS), "zero", "device")
    every = ".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".parquet"
    fails(ManifestError, reads(tmp_path, ROWS, "m.xlsx"), "m.xlsx", "'.xlsx'", *every)


def test_M1_a_table_without_read_right() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        build = reads(Path(folder), ROWS)
        (Path(folder) / "m.csv").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # the superuser may read everything
        try:
            fails(ManifestError, build, "m.csv", "Permission denied", "right to read")
        finally:
            os.seteuid(user)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", "\ufeff\r\n"])
def test_M2_nothing_in_it(tmp_path: Path, content: str, suffix: str) -> None:
    build = reads(tmp_path, content, f"m{suffix}")
    fails(ManifestError, build, f"m{suffix}", "0 rows" if content else "0 bytes")


def test_M2_only_a_header(tmp_path: Path) -> None:
    fails(ManifestError, reads(tmp_path, "text,label\n"), "m.csv", "0 rows")
    fails(ManifestError, reads(tmp_path, "text\tlabel", "m.tsv"), "m.tsv", "0 rows")
    build = reads_parquet(tmp_path, {"text": pa.array([], pa.string()), "label": pa.array([], pa.string())})
    fails(ManifestError, build, "m.parquet", "0 rows")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_M3_an_unknown_column_lists_the_columns(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, {"caption": ["a"], "Label ": ["x"]}, suffix)
    words = "'captoin'", "'caption', 'Label '", "did you mean 'caption'"
    fails(ManifestError, lambda: read_table(path, ["captoin"]), f"m{suffix}, header", *words)
    words = "no column 'label'", "did you mean 'Label '"
    fails(ManifestError, lambda: read_table(path, ["label"]), f"m{suffix}, header", *words)


def test_M3_an_optional_column_in_other_letters_is_no_column_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, {"text": ["a"], "Split": ["train"]}, ".csv")
    fails(ManifestError, lambda: read_table(path, ["text"], ["split"]), "header", "did you mean 'Split'")
    assert set(read_table(path, ["text"], ["domain"]).columns) == {"text"}


@given(st.lists(st.text("abcé _", min_size=1, max_size=4), min_size=1, max_size=5, unique=True))
def test_M3_every_column_but_the_missing_one_is_listed(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = written(tmp_path_factory.mktemp("columns"), {name: ["x"] for name in names}, ".jsonl")
    assert list(read_table(path, names).columns) == names
    listed = ", ".join(map(repr, names))
    fails(ManifestError, lambda: read_table(path, ["wanted"]), "m.jsonl, header", "'wanted'", listed)


def test_M4_a_column_name_twice(tmp_path: Path) -> None:
    build = reads(tmp_path, "text,label,text\na,x,b\n")
    fails(ManifestError, build, "m.csv, header", "'text' at positions 1, 3")
    build = reads(tmp_path, "text\tlabel\ttext\na\tx\tb\n", "m.tsv")
    fails(ManifestError, build, "m.tsv, header", "'text' at positions 1, 3")
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, ["text", "label", "text"])
    fails(ManifestError, reads_parquet(tmp_path, table), "m.parquet, header", "'text' at positions 1, 3")


@pytest.mark.parametrize(("delimiter", "suffix"), [(",", ".csv"), ("\t", ".tsv")])
@given(before=st.integers(0, 5), after=st.integers(0, 5), width=st.integers(1, 6).filter(lambda n: n != 3))
def test_M5_a_row_with_another_number_of_cells(
    tmp_path_factory: pytest.TempPathFactory,
    delimiter: str,
    suffix: str,
    before: int,
    after: int,
    width: int,
) -> None:
    rows = [["text", "label", "more"], *[["a", "x", "1"]] * before, ["v"] * width, *[["b", "y", "2"]] * after]
    content = "\n".join(map(delimiter.join, rows))
    build = reads(tmp_path_factory.mktemp("width"), content, f"m{suffix}")
    words = f"{width} cells", "3, as in the header: text, label"
    fails(ManifestError, build, f"m{suffix}, row {before + 2}", *words)


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize(
    ("content", "row"),
    [
        ('text,label\n"a,x\nb,y\n', 2),
        ('text,label\na,x\n"b"c,y\n', 3),
        ('text,label\na,x\nb,y\nsay "c",x\n', 4),
        ('text,label\na,x\n"b,y\n"c",x\n', 3),
        ('text,label\n"a\n\n",x\n "b",y\n', 5),
    ],
)
def test_M6_stray_quotes(tmp_path: Path, content: str, row: int, delimiter: str) -> None:
    name = "m.csv" if delimiter == "," else "m.tab"
    build = reads(tmp_path, content.replace(",", delimiter), name)
    fails(ManifestError, build, f"{name}, row {row}", "stray double quote")


def test_M6_another_delimiter(tmp_path: Path) -> None:
    build = reads(tmp_path, "text;label\na;x\n")
    fails(ManifestError, build, "m.csv, header", "separate the cells with commas")
    build = reads(tmp_path, "text\tlabel\na\tx\n")
    fails(ManifestError, build, "m.csv, header", "separate the cells with commas")
    build = reads(tmp_path, ROWS, "m.tsv")
    fails(ManifestError, build, "m.tsv, header", "separate the cells with tabs")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
def test_M6_byte_order_mark_and_any_line_end(tmp_path: Path, end: str, mark: str, name: str) -> None:
    content = mark + "text,label\n\nn,x\nb,y".replace("\n", end)
    content = content.replace(",", "\t") if name == "m.tsv" else content
    table = reads(tmp_path, content, name)()
    assert table.columns["text"].to_pylist() == ["n", "b"]
    assert table.line.tolist() == [3, 4]


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl"])
@pytest.mark.parametrize(
    ("content", "byte", "kind"),
    [
        ("text,label\ncafé,x\n".encode("latin-1"), 14, "text"),
        (ROWS.encode("utf-16"), 0, "UTF-16"),
        (ROWS.encode("utf-16-le"), 1, "UTF-16"),
        (b"text,label\na\0,x\n", 12, "text"),
        (b"PK\x03\x04\x14\x00\xff", 6, "Office"),
        (b"text,label\na,\xc3", 13, "text"),
    ],
)
def test_M7_not_utf8(tmp_path: Path, content: bytes, byte: int, kind: str, name: str) -> None:
    build = reads(tmp_path, content, name)
    fails(ManifestError, build, f"{name}, byte {byte}", kind, "save as UTF-8")


@given(at=st.integers(-6, 6), bad=st.sampled_from([b"\xff", b"\x80", b"\xc3(", b"\xed\xa0\x80"]))
def test_M7_the_byte_is_found_in_a_long_file(
    tmp_path_factory: pytest.TempPathFactory, at: int, bad: bytes
) -> None:
    """Around the end of a block of four megabytes, which may cut a character."""
    start = (1 << 22) + at
    head = b"text,label\n"
    content = (
        head + b"\xe2\x82\xac" * ((start - len(head)) // 3) + b"n" * ((start - len(head)) % 3) + bad + b",x\n"
    )
    assert content[start : start + len(bad)] == bad
    build = reads(tmp_path_factory.mktemp("long"), content)
    fails(ManifestError, build, f"m.csv, byte {start}", "save as UTF-8")


@given(st.binary(min_size=1, max_size=60), st.sampled_from(["m.csv", "m.tsv", "m.jsonl", "m.parquet"]))
@settings(max_examples=300)
def test_M7_M12_M13_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    with suppress(ManifestError):
        assert len(reads(tmp_path_factory.mktemp("bytes"), content, name, ["a"])())


LOOKALIKES = ["NA", "None", "null", "nan", "007", "1e5", "1_000", "2024-01-02", "true", "1.0", "-0", "+1"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_M8_M9_labels_and_ids_stay_text(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, {"label": LOOKALIKES}, suffix)
    assert read_table(path, ["label"]).columns["label"].to_pylist() == LOOKALIKES


@pytest.mark.parametrize(("suffix", "row"), [(".csv", 3), (".tsv", 3), (".jsonl", 2), (".parquet", 2)])
def test_M11_a_cell_above_the_cap_is_named_with_its_row(tmp_path: Path, suffix: str, row: int) -> None:
    path = written(tmp_path, {"text": ["a", "w" * (LONGEST_CELL + 1)], "label": ["x", "y"]}, suffix)
    where = f"m{suffix}, row {row}, column 'text'"
    fails(ManifestError, lambda: read_table(path, COLUMNS), where, "16777216 bytes")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_M11_ten_megabytes_in_a_cell(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, {"text": ["a", "w" * 10_000_000], "label": ["x", "y"]}, suffix)
    assert len(read_table(path, COLUMNS).columns["text"][1].as_py()) == 10_000_000


def measure(path: Path, answer: Path) -> None:
    """Rows, seconds of work and megabytes of reading a table."""
    import pyarrow.compute
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401 - not what is measured

    before, start = peak(), time.process_time()
    table = read_table(path, ["image", "text", "label", "domain"])
    answer.write_text(f"{len(table)} {time.process_time() - start} {peak() - before}")


def peak() -> float:
    import resource  # not everywhere

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_M11_a_million_rows_and_a_wide_cell(tmp_path: Path, suffix: str) -> None:
    """In less than 10 s of work and 500 MB."""
    path = tmp_path / f"m{suffix}"
    form = {
        ".csv": '%d/image_%07d.png,"%s",%d,web\n',
        ".jsonl": '{"image": "%d/image_%07d.png", "text": "%s", "label": %d, "domain": "web"}\n',
    }[suffix]
    with path.open("w") as file:
        file.write("image,text,label,domain\n" if suffix == ".csv" else "")
        for i in range(1_000_000):
            text = "w" * 10_000_000 if i == 700_000 else f"caption, number {i}"
            file.write(form % (i % 1000, i, text, i % 100))
    run_apart(measure, path, tmp_path / "measured", seconds=120)
    rows, seconds, megabytes = map(float, (tmp_path / "measured").read_text().split())
    assert rows == 1_000_000
    assert seconds < 10
    assert megabytes < 500


GOOD = '{"text": "a", "label": "x"}\n'
JSONL = {
    "cut": ('{"text": "a", "label"', "", ["no JSON"]),
    "no_quotes": ("{text: 1}", "", ["no JSON"]),
    "two_objects": ('{"text": "a"} {"text": "b"}', "", ["no JSON", "character 15"]),
    "array": ('["a", "x"]', "", ["a list"]),
    "text": ('"a"', "", ["text in place of an object"]),
    "number": ("7", "", ["the number 7"]),
    "null": ("null", "", ["null in place of an object"]),
    "nan": ('{"text": "a", "label": NaN}', "", ["NaN"]),
    "infinity": ('{"text": "a", "label": -Infinity}', "", ["-Infinity"]),
    "key_twice": ('{"text": "a", "label": "x", "text": "b"}', "", ["the key 'text' twice"]),
    "nested_key_twice": ('{"text": "a", "label": "x", "more": {"a": 1, "a": 1}}', "", ["'a' twice"]),
    "nested_null": ('{"text": [null], "label": "x"}', "text", ["a list with null"]),
    "object": ('{"text": {"a": 1}, "label": "x"}', "text", ["an object"]),
    "numbers": ('{"text": "a", "label": [1.5, 2]}', "label", ["a list with the number 1.5"]),
    "lists": ('{"text": "a", "label": [["b"]]}', "label", ["a list with a list"]),
    "separator": ('{"text": "a", "label": ["b", "c|d"]}', "label", ["'c|d'"]),
    "empty_item": ('{"text": "a", "label": [""]}', "label", ["''"]),
    "half_character": ('{"text": "a", "label": "\\ud83d"}', "label", ["half a character"]),
    "nul": ('{"text": "a\\u0000", "label": "x"}', "text", ["NUL"]),
    "deep_lists": ('{"text": ' + "[" * 10_000 + "]" * 10_000 + "}", "", ["too deep"]),
    "deep_objects": ('{"a": ' * 10_000 + "1" + "}" * 10_000, "", ["too deep"]),
    "open_lists": ("[" * 100_000, "", ["too deep"]),
}


@pytest.mark.parametrize(("line", "column", "words"), JSONL.values(), ids=JSONL)
def test_M12_jsonl(tmp_path: Path, line: str, column: str, words: list[str]) -> None:
    build = reads(tmp_path, f"{GOOD}\n{GOOD}{line}\n{GOOD}", "m.jsonl")
    fails(ManifestError, build, "m.jsonl, row 4" + (f", column {column!r}" if column else ""), *words)


@given(at=st.integers(0, len(GOOD) - 2), byte=st.binary(min_size=1, max_size=1))
@settings(max_examples=300)
def test_M12_a_changed_byte_is_read_or_refused_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: bytes
) -> None:
    line = GOOD.encode()
    build = reads(tmp_path_factory.mktemp("line"), line + line[:at] + byte + line[at + 1 :] + line, "m.jsonl")
    try:
        table = build()
    except ManifestError as error:
        where = error.where
    else:
        assert table.columns["text"].to_pylist()[::2] == ["a", "a"]
        return
    assert re.search(r"m\.jsonl, (row [23]|byte \d+)", where)


def test_M13_not_parquet_and_cut_parquet(tmp_path: Path) -> None:
    fails(ManifestError, reads(tmp_path, ROWS, "m.parquet"), "m.parquet", "text that begins with", ".csv")
    reads_parquet(tmp_path, {"text": ["a", "b"] * 500, "label": ["x", "y"] * 500})
    whole = (tmp_path / "m.parquet").read_bytes()
    for size in range(5, len(whole), 97):
        fails(ManifestError, reads(tmp_path, whole[:size], "m.parquet"), "m.parquet", "end is missing")


def test_M13_damaged_parquet_is_refused_or_read_and_never_crashes(tmp_path: Path) -> None:
    reads_parquet(tmp_path, {"text": [f"text {i}" for i in range(300)], "label": ["x", "y", "z"] * 100})
    whole = (tmp_path / "m.parquet").read_bytes()
    refused = []
    for at in range(4, len(whole) - 4, 13):
        build = reads(tmp_path, whole[:at] + bytes([whole[at] ^ 0xA5]) + whole[at + 1 :], "m.parquet")
        try:
            build()
        except ManifestError as error:
            refused.append(error.where)
    assert len(refused) > 20
    assert all(str(tmp_path / "m.parquet") in where for where in refused)


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        (pa.array([[1], [2]]), "list<"),
        (pa.array([{"bytes": b"x"}] * 2), "struct<"),
        (pa.array([b"x", b"y"]), "binary"),
        (pa.array([0, 1], pa.timestamp("s")), "timestamp"),
        (pa.array([0, 1], pa.date32()), "date32"),
        (pa.array([[["a"]], [["b"]]]), "list<"),
    ],
    ids=str,
)
def test_M13_parquet_columns_of_other_types(tmp_path: Path, label: Any, kind: str) -> None:
    build = reads_parquet(tmp_path, {"text": ["a", "b"], "label": label})
    fails(ManifestError, build, "m.parquet, column 'label'", kind, "text or numbers")
    assert len(read_table(tmp_path / "m.parquet", ["text"])) == 2  # nobody asked for the other


def test_M13_parquet_cells_that_cannot_be(tmp_path: Path) -> None:
    build = reads_parquet(tmp_path, {"text": ["a", "b\0"], "label": ["x", "y"]})
    fails(ManifestError, build, "m.parquet, row 2, column 'text'", "NUL")
    for item in ("b|c", "", None):
        build = reads_parquet(tmp_path, {"text": ["a", "b", "c"], "label": [["a", "b"], None, ["a", item]]})
        fails(ManifestError, build, "m.parquet, row 3, column 'label'", repr(item), "items of text")


class _Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_M14_pickles_in_metadata_are_not_read(tmp_path: Path) -> None:
    pickled = pickle.dumps(_Canary(tmp_path / "ran"))
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickled}
    fields = [
        pa.field("text", pa.string(), metadata=extension),
        pa.field("label", pa.string(), metadata={"pandas": pickled}),
    ]
    schema = pa.schema(fields, metadata={"pandas": pickled, "PYTHON:custom": pickled})
    build = reads_parquet(tmp_path, pa.table([["a", "b"], ["x", "y"]], schema=schema))
    assert pickled in (tmp_path / "m.parquet").read_bytes()
    assert build().columns["text"].to_pylist() == ["a", "b"]
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickled)
    assert (tmp_path / "ran").exists()  # it would have told


def table_of_paths(folder: Path, paths: list[str]) -> TextTable:
    return TextTable(
        folder / "m.csv", {"image": pa.array(paths, pa.large_string())}, np.arange(len(paths)) + 2
    )


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("path", ["pipe:cat a.png", "PIPE:rm a.png"])
def test_M15_commands(tmp_path: Path, path: str, allowed: bool) -> None:
    (tmp_path / "a.png").write_bytes(b"something")
    check = partial(check_media, table_of_paths(tmp_path, ["a.png", path]), "image", tmp_path, allowed)
    fails(ManifestError, check, "m.csv, row 3, column 'image'", "a command", "save what it writes")


def test_M16_a_device_outside_is_no_file_even_if_allowed(tmp_path: Path) -> None:
    check = partial(check_media, table_of_paths(tmp_path, ["/dev/zero"]), "image", tmp_path, True)
    fails(SampleError, check, "row 2, column 'image'", "no regular file")


NAMES = [
    "two words.png",
    "new\nline.png",
    "😀.png",
    "caf\u00e9.png",
    "cafe\u0301.png",
    "n" * 251 + ".png",
    "#%?&.png",
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_M17_unusual_names_lead_to_their_files(tmp_path: Path, suffix: str) -> None:
    for i, name in enumerate(NAMES):
        (tmp_path / name).write_text(str(i))
    table = read_table(written(tmp_path, {"image": NAMES}, suffix), ["image"])
    check_media(table, "image", tmp_path, False)
    contents = [(tmp_path / name).read_text() for name in table.columns["image"].to_pylist()]
    assert contents == [str(i) for i in range(len(NAMES))]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40))
def test_M17_any_name_is_found_or_named_with_its_row(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder, name = tmp_path_factory.mktemp("names"), name.replace("/", "_")
    path = written(folder, {"image": [name]}, ".csv")
    with suppress(OSError):
        (folder / name).write_bytes(b"something")
    try:
        check_media(read_table(path, ["image"]), "image", folder, False)
    except (ManifestError, SampleError) as error:
        where = error.where
    else:
        assert (folder / name).is_file()
        return
    assert "m.csv, row 2, column 'image'" in where


def test_M19_a_class_folder_without_files(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/notes.txt", ".git/config"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"something")
    fails(ManifestError, lambda: read_folder(tmp_path, [".png"]), "dog", "1 of other kinds", ".png")
    (tmp_path / "dog" / "notes.txt").unlink()
    (tmp_path / "dog" / "deeper").mkdir()
    fails(ManifestError, lambda: read_folder(tmp_path, [".png"]), "dog", "a class without files", "remove it")


def test_M19_no_folder_and_no_classes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"something")
    fails(ManifestError, lambda: read_folder(tmp_path / "no", [".png"]), "no", "nothing")
    fails(ManifestError, lambda: read_folder(tmp_path / "a.png", [".png"]), "a.png", "a file")
    fails(ManifestError, lambda: read_folder(tmp_path, [".png"]), tmp_path.name, "no folders of classes")


def test_M19_splits_beside_classes(tmp_path: Path) -> None:
    for name in ("train/cat", "test/cat", "bird"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(b"something")
    words = "test, train beside bird", "only splits or only classes"
    fails(ManifestError, lambda: read_folder(tmp_path, [".png"]), tmp_path.name, *words)


def test_M19_strays_are_named_once_and_hidden_files_are_not(tmp_path: Path) -> None:
    names = "cat/a.png", "dog/b.png", "dog/b.txt", "readme.md", ".hidden", "cat/.DS_Store", "dog/.c.png"
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something")
    with pytest.warns(
        UserWarning, match=r"2 files or links are left out.*: readme\.md, dog/b\.txt$"
    ) as caught:
        table = read_folder(tmp_path, [".png"])
    assert len(caught) == 1
    assert table.columns["path"].to_pylist() == ["cat/a.png", "dog/b.png"]


def test_M19_loops_of_links_end(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "cat", root / "dog" / "deep", outside):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(b"something")
    (root / "cat" / "up").symlink_to(root)
    (root / "dog" / "deep" / "self").symlink_to(root / "dog" / "deep")
    (root / "dog" / "away").symlink_to(outside)
    (root / "bird").symlink_to(outside)
    (root / "dog" / "link.png").symlink_to(root / "cat" / "a.png")
    with pytest.warns(UserWarning, match="4 files or links are left out"):
        table = read_folder(root, [".png"])
    assert table.columns["path"].to_pylist() == ["cat/a.png", "dog/deep/a.png", "dog/link.png"]


@pytest.mark.skipif(sys.platform == "darwin", reason="names are always UTF-8 there")
def test_M19_a_name_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"something")
    fails(ManifestError, lambda: read_folder(tmp_path, [".png"]), "caf\\xe9.png", "no UTF-8")


def test_M3_a_column_named_in_the_settings_must_be_there(tmp_path: Path) -> None:
    build = manifest(tmp_path, ROWS, columns=ManifestColumns(domain="place"))
    fails(ManifestError, build, "m.csv, header", "no column 'place'")
    build = manifest(tmp_path, "text,label,Split\na,x,train\nb,y,train\n")
    fails(ManifestError, build, "m.csv, header", "no column 'split'", "did you mean 'Split'")


def test_L1_L2_an_unknown_label(tmp_path: Path) -> None:
    build = manifest(
        tmp_path, "text,label\na,ant\nb,bea\nc,\nd,bea\n", target=SingleLabel(classes=["ant", "bee", "cat"])
    )
    words = "'bea'", "did you mean 'bee'", "2 unknown", "ant, bee, cat"
    fails(ManifestError, build, "m.csv, row 3, column 'label'", *words)
    build = manifest(tmp_path, "text,label\na,0\nb,-1\n", target=SingleLabel(classes=["0", "1"]))
    fails(ManifestError, build, "m.csv, row 3, column 'label'", "'-1'")


def test_L2_blanks_around_a_label(tmp_path: Path) -> None:
    fails(
        ManifestError, manifest(tmp_path, "text,label\na,1\nb,1 \n"), "m.csv, row 3, column 'label'", "blanks"
    )


def test_L3_one_class_or_no_label(tmp_path: Path) -> None:
    build = manifest(tmp_path, "text,label\na,x\nb,x\nc,\n")
    fails(ManifestError, build, "m.csv, column 'label'", "only the class 'x' in 2 labelled rows")
    fails(
        ManifestError,
        manifest(tmp_path, "text,label\na,\n"),
        "m.csv, column 'label'",
        "no labels",
        "`classes`",
    )


def test_an_unknown_split(tmp_path: Path) -> None:
    build = manifest(tmp_path, "text,label,split\na,x,train\nb,y,Train\nc,x,\n")
    fails(
        ManifestError,
        build,
        "m.csv, row 3, column 'split'",
        "'Train'",
        "did you mean 'train'",
        "train, val, test",
    )
    build = manifest(tmp_path, "text,label,split\na,x,train\nb,y,\n")
    fails(ManifestError, build, "m.csv, row 3, column 'split'", "''")


def test_an_empty_domain(tmp_path: Path) -> None:
    build = manifest(tmp_path, "text,label,domain\na,x,web\nb,y,\n")
    fails(ManifestError, build, "m.csv, row 3, column 'domain'", "an empty cell")


def test_X2_a_row_without_any_modality(tmp_path: Path) -> None:
    build = manifest(tmp_path, "text,image,label\na,,x\n,,y\n,,x\n", modalities={**TEXT, **IMAGE})
    fails(ManifestError, build, "m.csv, row 3, column 'text, image'", "2 of 3 rows")


def test_M16_M17_missing_files_are_counted_before_training(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"something")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    names = ["a.png", "aa.png", "pipe.png", "folder.png", "empty.png", "z.png", "a.png"]
    rows = "".join(f"{name},{'xy'[i % 2]}\n" for i, name in enumerate(names))
    build = manifest(tmp_path, "image,label\n" + rows, modalities=IMAGE)
    words = "5 of 6", "'aa.png' (row 3) is missing", "'pipe.png' (row 4)", "'folder.png' (row 5) is a folder"
    fails(SampleError, build, "m.csv, row 3, column 'image'", *words, "did you mean 'a.png'")
    build = manifest(tmp_path, "image,label\na.png,x\nempty.png,y\n", modalities=IMAGE)
    fails(SampleError, build, "m.csv, row 3, column 'image'", "is empty (0 bytes)")
    build = manifest(tmp_path, f"image,label\na.png,x\n{'n' * 300},y\n", modalities=IMAGE)
    fails(SampleError, build, "m.csv, row 3, column 'image'", "name too long")


OUTSIDE = ["/etc/hostname", "../a.png", "x/../../a.png", "..", "C:\\a.png", "\\\\host\\a.png", "x\\..\\a.png"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_M15_paths_that_leave_the_root(tmp_path: Path, path: str) -> None:
    (tmp_path / "a.png").write_bytes(b"something")
    build = manifest(tmp_path, f"image,label\na.png,x\n{path},y\n", modalities=IMAGE)
    fails(ManifestError, build, "m.csv, row 3, column 'image'", "leaves", "allow_outside_root")


@pytest.mark.parametrize("path", ["http://host/a.png", "file:///a.png", "s3://b/a.png"])
def test_M15_urls(tmp_path: Path, path: str) -> None:
    build = manifest(tmp_path, f"image,label\n{path},y\n", modalities=IMAGE, allow_outside_root=True)
    fails(ManifestError, build, "m.csv, row 2, column 'image'", "a URL", "download")


def test_M15_links_that_leave_the_root_are_followed_only_if_allowed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "own").mkdir(parents=True)
    outside.mkdir()
    (outside / "a.png").write_bytes(b"something")
    (inside / "own" / "a.png").write_bytes(b"something")
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "folder").symlink_to(outside)
    (inside / "good").symlink_to(inside / "own")
    for path in ("link.png", "folder/a.png", "good/../../out/a.png"):
        content = f"image,label\ngood/a.png,x\n{path},y\n"
        build = manifest(inside, content, modalities=IMAGE)
        fails(ManifestError, build, "m.csv, row 3, column 'image'", "allow_outside_root")
        allowed = manifest(inside, content, modalities=IMAGE, allow_outside_root=True)()
        assert allowed.file("image", 1).read_bytes() == b"something"


def test_I1_A1_a_file_damaged_later_is_named_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"<html>404</html>")
    (tmp_path / "a.wav").write_bytes(b"<html>404</html>")
    content = "image,audio,label\n,a.wav,x\na.png,,y\n"
    source = manifest(tmp_path, content, modalities={**IMAGE, "audio": "audio"}, allow_absent=True)()
    fails(SampleError, lambda: source.load("image", 1), "m.csv, row 3, column 'image'", "a.png", "HTML page")
    fails(SampleError, lambda: source.load("audio", 0), "m.csv, row 2, column 'audio'", "a.wav", "HTML page")
    (tmp_path / "a.png").unlink()
    fails(SampleError, lambda: source.load("image", 1), "m.csv, row 3, column 'image'", "is missing")


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    for options, word in (
        ({"modalities": {}}, "modalities"),
        ({"root": tmp_path / "nowhere"}, "root"),
    ):
        fails(ConfigError, manifest(tmp_path, ROWS, **options), word)  # type: ignore[arg-type]


def test_M17_a_name_with_control_characters_cannot_forge_a_log_line(tmp_path: Path) -> None:
    build = manifest(tmp_path, 'image,label\n"a\n\x1b[31mERROR",x\n', modalities=IMAGE)
    with pytest.raises(SampleError) as caught:
        build()
    assert not re.search(r"[\n\x1b]", str(caught.value))


def test_M10_a_name_given_twice_is_refused_and_a_leak_is_counted(tmp_path: Path) -> None:
    content = "sample_id,text,label\np1,a,x\np2,b,y\np1,c,x\np2,d,x\n"
    build = manifest(tmp_path, content)
    fails(ManifestError, build, "m.csv, row 4, column 'sample_id'", "'p1' of row 2 again", "2 names")
    fails(
        ManifestError, manifest(tmp_path, "sample_id,text,label\n,a,x\np,b,y\n"), "row 2, column 'sample_id'"
    )
    (tmp_path / "a.png").write_bytes(b"something")
    content = "image,text,label,split\na.png,p,x,train\n./a.png,q,y,test\na.png,r,y,val\n"
    with pytest.warns(UserWarning, match=r"have the same image; 2 such cases"):
        manifest(tmp_path, content, modalities={**IMAGE, **TEXT})()


def test_names_of_samples_are_their_ids(tmp_path: Path) -> None:
    before = manifest(tmp_path, "sample_id,text,label\np1,a,x\np2,b,y\n")().samples.sample_id
    after = manifest(tmp_path, "sample_id,text,label\np2,other,y\np1,text,x\n")().samples.sample_id
    assert before.tolist() == after.tolist()[::-1]


def test_I3_a_checksum_column_decides(tmp_path: Path) -> None:
    image = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    (tmp_path / "a.png").write_bytes(image)
    right, wrong = hashlib.sha256(image).hexdigest(), hashlib.sha256(b"").hexdigest()
    content = f"image,image_sha256,label\na.png,{right.upper()},x\na.png,{wrong},y\na.png,,y\n"
    source = manifest(tmp_path, content, modalities=IMAGE, allow_absent=True)()
    assert source.load("image", 0).shape == source.load("image", 2).shape == (4, 4, 3)
    fails(SampleError, lambda: source.load("image", 1), "m.csv, row 3, column 'image'", right, wrong)


def test_X4_a_modality_that_a_whole_split_lacks(tmp_path: Path) -> None:
    content = "text,other,label,split\na,p,x,train\nb,,y,train\nc,,x,val\nd,,y,val\n"

    class TwoTexts(ManifestSource):
        def load(self, modality: str, row: int) -> Any:
            return self.cell(modality, row)

    (tmp_path / "m.csv").write_text(content)
    modalities = {"text": "text", "two": "other"}
    words = "1 of 2 train rows, 0 of 2 val rows", "allow_absent"
    fails(ManifestError, lambda: TwoTexts(tmp_path / "m.csv", modalities), "modality 'two'", *words)
    assert len(TwoTexts(tmp_path / "m.csv", modalities, allow_absent=True).samples) == 4


def test_all_faults_of_a_table_are_told_at_once(tmp_path: Path) -> None:
    content = "image,text,label,split,weight,domain\nno.png,a,z,train,1,d\n,,x,trian,-1,\n"
    build = manifest(tmp_path, content, modalities={**IMAGE, **TEXT}, target=SingleLabel(classes=["x", "y"]))
    with pytest.raises(ManifestError) as caught:
        build()
    errors = [caught.value, *caught.value.others]
    assert "(4 more faults: lightning-distill doctor lists all)" in str(caught.value)
    for word in ("at least one modality", "'no.png'", "'z'", "weight of 0 or more", "name of a domain"):
        assert sum(word in f"{e.found} {e.expected}" for e in errors) == 1, word
