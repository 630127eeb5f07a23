"""Every fault of a manifest is named with file, row and column, and how to mend it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.data import ManifestColumns, ManifestSource
from lightning_distill.errors import ConfigError, DistillError, ManifestError, SampleError

TEXT, IMAGE = {"text": "text"}, {"image": "image"}
ROWS = "text,label\na,x\nb,y\n"


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


def parquet(folder: Path, columns: dict[str, Any], **options: Any) -> Callable[[], Any]:
    pq.write_table(pa.table(columns), folder / "m.parquet")
    options = {"modalities": TEXT, **options}
    return lambda: ManifestSource(folder / "m.parquet", **options)


def test_a_missing_manifest_names_the_nearest_file(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(ROWS)
    fails(
        ManifestError,
        lambda: ManifestSource(tmp_path / "tran.csv", TEXT),
        "tran.csv",
        "is missing",
        "did you mean 'train.csv'",
    )
    fails(ManifestError, lambda: ManifestSource(tmp_path / "no" / "m.csv", TEXT), "m.csv", "is missing")


def test_a_folder_a_pipe_and_an_unknown_suffix(tmp_path: Path) -> None:
    fails(ManifestError, lambda: ManifestSource(tmp_path, TEXT), tmp_path.name, "is a folder")
    os.mkfifo(tmp_path / "m.csv")
    fails(ManifestError, lambda: ManifestSource(tmp_path / "m.csv", TEXT), "m.csv", "pipe")
    fails(ManifestError, manifest(tmp_path, ROWS, "m.tsv"), "m.tsv", "'.tsv'", ".csv", ".parquet")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_manifest_without_read_right(tmp_path: Path) -> None:
    build = manifest(tmp_path, ROWS)
    (tmp_path / "m.csv").chmod(0)
    fails(ManifestError, build, "m.csv", "Permission denied", "right to read")


@pytest.mark.parametrize(
    ("content", "word"),
    [("", "0 bytes"), ("\n\n", "0 rows"), ("text,label\n", "0 rows"), ("\ufeff", "0 rows")],
)
def test_nothing_in_it(tmp_path: Path, content: str, word: str) -> None:
    fails(ManifestError, manifest(tmp_path, content), "m.csv", word)


def test_an_unknown_column_lists_the_columns(tmp_path: Path) -> None:
    build = manifest(tmp_path, "caption,label\na,x\n", modalities={"text": "captoin"})
    fails(ManifestError, build, "m.csv, header", "'captoin'", "'caption', 'label'", "did you mean 'caption'")
    build = manifest(tmp_path, "TEXT ,label\na,x\n")
    fails(ManifestError, build, "m.csv, header", "no column 'text'", "did you mean 'TEXT '")
    fails(
        ManifestError,
        manifest(tmp_path, "text;label\na;x\n"),
        "m.csv, header",
        "separate the cells with commas",
    )
    build = manifest(tmp_path, ROWS, columns=ManifestColumns(split="fold"))
    fails(ManifestError, build, "m.csv, header", "no column 'fold'")
    build = manifest(tmp_path, "text,label,Split\na,x,train\nb,y,train\n")
    fails(ManifestError, build, "m.csv, header", "no column 'split'", "did you mean 'Split'")
    build = parquet(tmp_path, {"texts": ["a"], "label": ["x"]})
    fails(ManifestError, build, "m.parquet, header", "did you mean 'texts'")


def test_a_column_name_twice(tmp_path: Path) -> None:
    build = manifest(tmp_path, "text,label,text\na,x,b\n")
    fails(ManifestError, build, "m.csv, header", "'text' at positions 1, 3")
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, ["text", "label", "text"])
    pq.write_table(table, tmp_path / "m.parquet")
    fails(
        ManifestError,
        lambda: ManifestSource(tmp_path / "m.parquet", TEXT),
        "m.parquet, header",
        "'text' at positions 1, 3",
    )


@given(before=st.integers(0, 5), after=st.integers(0, 5), width=st.integers(1, 6).filter(lambda n: n != 3))
def test_a_row_with_another_number_of_cells(
    tmp_path_factory: pytest.TempPathFactory, before: int, after: int, width: int
) -> None:
    lines = ["text,label,more", *["a,x,1"] * before, ",".join("v" * width), *["b,y,2"] * after]
    build = manifest(tmp_path_factory.mktemp("width"), "\n".join(lines))
    fails(
        ManifestError, build, f"m.csv, row {before + 2}", f"{width} cells", "3, as in the header: text, label"
    )


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
def test_stray_quotes(tmp_path: Path, content: str, row: int) -> None:
    fails(ManifestError, manifest(tmp_path, content), f"m.csv, row {row}", "stray double quote")


@pytest.mark.parametrize(
    ("content", "byte", "kind"),
    [
        ("text,label\ncafé,x\n".encode("latin-1"), 14, "text"),
        (ROWS.encode("utf-16"), 0, "UTF-16"),
        (ROWS.encode("utf-16-le"), 1, "UTF-16"),
        (b"text,label\na\0,x\n", 12, "text"),
        (b"PK\x03\x04\x14\x00\xff", 6, "Office"),
    ],
)
def test_not_utf8(tmp_path: Path, content: bytes, byte: int, kind: str) -> None:
    fails(ManifestError, manifest(tmp_path, content), f"m.csv, byte {byte}", kind, "save as UTF-8")


def test_not_parquet_and_cut_parquet(tmp_path: Path) -> None:
    fails(ManifestError, manifest(tmp_path, ROWS, "m.parquet"), "m.parquet", "text that begins with", ".csv")
    parquet(tmp_path, {"text": ["a", "b"] * 500, "label": ["x", "y"] * 500})
    whole = (tmp_path / "m.parquet").read_bytes()
    for size in range(5, len(whole), 97):
        build = manifest(tmp_path, whole[:size], "m.parquet")
        fails(ManifestError, build, "m.parquet", "end is missing")


def test_damaged_parquet_is_refused_or_read_and_never_crashes(tmp_path: Path) -> None:
    parquet(tmp_path, {"text": [f"text {i}" for i in range(300)], "label": ["x", "y", "z"] * 100})
    whole = (tmp_path / "m.parquet").read_bytes()
    refused = []
    for at in range(4, len(whole) - 4, 13):
        build = manifest(tmp_path, whole[:at] + bytes([whole[at] ^ 0xA5]) + whole[at + 1 :], "m.parquet")
        try:
            build()
        except ManifestError as error:
            refused.append(error.where)
    assert len(refused) > 20
    assert all(str(tmp_path / "m.parquet") in where for where in refused)


def test_parquet_columns_of_other_types(tmp_path: Path) -> None:
    for column, kind in (([[1], [2]], "list<"), ([{"bytes": b"x"}] * 2, "struct<"), ([0.5, 1.0], "double")):
        build = parquet(tmp_path, {"text": ["a", "b"], "label": column})
        fails(ManifestError, build, "m.parquet, column 'label'", kind, "text or integers")
    build = parquet(tmp_path, {"text": ["a", "b\0"], "label": ["x", "y"]})
    fails(ManifestError, build, "m.parquet, row 2, column 'text'", "NUL")


def test_an_unknown_label(tmp_path: Path) -> None:
    build = manifest(tmp_path, "text,label\na,ant\nb,bea\nc,\nd,bea\n", classes=["ant", "bee", "cat"])
    words = "'bea'", "did you mean 'bee'", "2 rows", "ant, bee, cat"
    fails(ManifestError, build, "m.csv, row 3, column 'label'", *words)
    build = manifest(tmp_path, "text,label\na,0\nb,-1\n", classes=["0", "1"])
    fails(ManifestError, build, "m.csv, row 3, column 'label'", "'-1'")


def test_blanks_around_a_label(tmp_path: Path) -> None:
    fails(
        ManifestError, manifest(tmp_path, "text,label\na,1\nb,1 \n"), "m.csv, row 3, column 'label'", "blanks"
    )


def test_one_class_or_no_label(tmp_path: Path) -> None:
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


def test_a_row_without_any_modality(tmp_path: Path) -> None:
    build = manifest(tmp_path, "text,image,label\na,,x\n,,y\n,,x\n", modalities={**TEXT, **IMAGE})
    fails(ManifestError, build, "m.csv, row 3, column 'text, image'", "2 of 3 rows")


def test_missing_files_are_counted_before_training(tmp_path: Path) -> None:
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
def test_paths_that_leave_the_root(tmp_path: Path, path: str) -> None:
    (tmp_path / "a.png").write_bytes(b"something")
    build = manifest(tmp_path, f"image,label\na.png,x\n{path},y\n", modalities=IMAGE)
    fails(ManifestError, build, "m.csv, row 3, column 'image'", "leaves", "allow_outside_root")


@pytest.mark.parametrize("path", ["http://host/a.png", "file:///a.png", "s3://b/a.png"])
def test_urls(tmp_path: Path, path: str) -> None:
    build = manifest(tmp_path, f"image,label\n{path},y\n", modalities=IMAGE, allow_outside_root=True)
    fails(ManifestError, build, "m.csv, row 2, column 'image'", "a URL", "download")


def test_links_that_leave_the_root_are_followed_only_if_allowed(tmp_path: Path) -> None:
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


def test_a_file_damaged_later_is_named_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"<html>404</html>")
    (tmp_path / "a.wav").write_bytes(b"<html>404</html>")
    content = "image,audio,label\n,a.wav,x\na.png,,y\n"
    source = manifest(tmp_path, content, modalities={**IMAGE, "audio": "audio"})()
    fails(SampleError, lambda: source.load("image", 1), "m.csv, row 3, column 'image'", "a.png", "HTML page")
    fails(SampleError, lambda: source.load("audio", 0), "m.csv, row 2, column 'audio'", "a.wav", "HTML page")
    (tmp_path / "a.png").unlink()
    fails(SampleError, lambda: source.load("image", 1), "m.csv, row 3, column 'image'", "is missing")


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    for options, word in (
        ({"modalities": {}}, "modalities"),
        ({"classes": ["x"]}, "classes"),
        ({"classes": ["x", "y", "x"]}, "classes"),
        ({"val_share": 0.6, "test_share": 0.4}, "test_share"),
        ({"val_share": -0.1}, "test_share"),
        ({"val_share": float("nan")}, "test_share"),
        ({"root": tmp_path / "nowhere"}, "root"),
    ):
        fails(ConfigError, manifest(tmp_path, ROWS, **options), word)  # type: ignore[arg-type]


def test_a_name_with_control_characters_cannot_forge_a_log_line(tmp_path: Path) -> None:
    build = manifest(tmp_path, 'image,label\n"a\n\x1b[31mERROR",x\n', modalities=IMAGE)
    with pytest.raises(SampleError) as caught:
        build()
    assert not re.search(r"[\n\x1b]", str(caught.value))
