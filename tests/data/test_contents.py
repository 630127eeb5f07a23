"""What a sample holds, as a number: the same for the same bytes, whatever their name and date."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from lightning_distill.data import ManifestSource
from lightning_distill.data.contents import file_digests
from tests.data.media import png

EVERY = ("image", "text")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_DISTILL_CACHE", str(tmp_path / "cache"))


def test_digests_are_remembered_until_a_file_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{n}.bin" for n in range(5)]
    for n, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([n]) * 100)
    first = file_digests(tmp_path, names)
    assert len(set(first.tolist())) == 5
    monkeypatch.setattr("lightning_distill.data.contents._SETTLED", -1)  # do not wait for two seconds
    assert (file_digests(tmp_path, names) == first).all()
    read: list[str] = []
    monkeypatch.setattr("lightning_distill.data.contents._digest", lambda path: read.append(path.name))
    assert (file_digests(tmp_path, names[::-1]) == first[::-1]).all()
    assert read == []
    (tmp_path / "3.bin").write_bytes(b"x" * 100)
    file_digests(tmp_path, names)
    assert read == ["3.bin"]


@pytest.mark.row("C5")
def test_C5_a_file_replaced_with_the_same_name_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_distill.data.contents._SETTLED", -1)
    path = tmp_path / "0.bin"
    path.write_bytes(b"a" * 100)
    stat = path.stat()
    before = file_digests(tmp_path, ["0.bin"])
    time.sleep(0.02)  # the resolution of the system's clock for files
    with path.open("r+b") as file:
        file.write(b"b" * 100)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    assert file_digests(tmp_path, ["0.bin"]) != before
    path.write_bytes(b"a" * 100)
    assert file_digests(tmp_path, ["0.bin"]) == before, "by content"


def test_what_was_written_just_now_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "0.bin").write_bytes(b"a")
    file_digests(tmp_path, ["0.bin"])
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_file_that_cannot_be_read_equals_nothing(tmp_path: Path) -> None:
    first, second = (file_digests(tmp_path, ["none.bin"]) for _ in range(2))
    assert first != second


def test_a_damaged_memory_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_distill.data.contents._SETTLED", -1)
    (tmp_path / "0.bin").write_bytes(b"a")
    right = file_digests(tmp_path, ["0.bin"])
    (memory,) = (tmp_path / "cache").rglob("*.npy")
    raw = bytearray(memory.read_bytes())
    raw[44] ^= 1
    memory.write_bytes(raw)
    assert file_digests(tmp_path, ["0.bin"]) == right


def _source(folder: Path, lines: list[str]) -> ManifestSource:
    (folder / "table.csv").write_text("\n".join(["image,text,label,split", *lines, ""]))
    return ManifestSource(folder / "table.csv", {"image": "image", "text": "text"})


def test_a_table_is_known_by_its_files_and_cells(tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    lines = [f"{n}.png,word {n},{'ab'[n % 2]},{'train' if n < 3 else 'val'}" for n in range(4)]
    source = _source(tmp_path, lines)
    rows = np.arange(4)
    before = {m: source.contents(rows, m) for m in (("image",), ("text",), EVERY, ("text", "image"))}
    assert len(set(before[EVERY].tolist())) == 4
    assert (before[EVERY] == before["text", "image"]).all()

    (tmp_path / "1.png").write_bytes(png(9))
    changed = _source(tmp_path, lines)
    assert (changed.contents(rows, EVERY) != before[EVERY]).tolist() == [False, True, False, False]
    assert (changed.contents(rows, ("text",)) == before["text",]).all()

    other = _source(tmp_path, [lines[0].replace("word 0", "word zero"), *lines[1:]])
    assert (other.contents(rows, ("text",)) != before["text",]).tolist() == [True, False, False, False]

    turned = _source(tmp_path, lines[::-1])
    assert (turned.contents(rows, ("text",)) == before["text",][::-1]).all()


def test_absence_counts(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    lines = ["0.png,word,a,train", "0.png,,b,train", "0.png,word,a,val"]
    found = _source(tmp_path, lines).contents(np.arange(3), EVERY)
    assert found[0] == found[2] != found[1]
