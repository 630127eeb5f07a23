from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_distill.errors import DiskError
from lightning_distill.reporting import save_picture, save_report, save_summary
from lightning_distill.reporting.atomic import write_atomically
from tests.reporting.example import example

WRITERS: dict[str, Callable[[Path], Path]] = {
    "summary.json": lambda path: save_summary(example(), path),
    "report.html": lambda path: save_report(example(), b"png", path),
    "summary.png": lambda path: save_picture(example(), path),
}


def test_the_summary_comes_back(tmp_path: Path) -> None:
    path = save_summary(example(), tmp_path / "a" / "summary.json")
    assert json.loads(path.read_text(encoding="utf-8")) == example()


def test_what_json_has_no_word_for_becomes_null(tmp_path: Path) -> None:
    summary = example()
    summary["rows"][0]["accuracy_se"] = float("nan")
    summary["gap_closed"]["image"]["values"] = [float("inf"), 0.5]
    read = json.loads(save_summary(summary, tmp_path / "s.json").read_text(encoding="utf-8"))
    assert read["rows"][0]["accuracy_se"] is None
    assert read["gap_closed"]["image"]["values"] == [None, 0.5]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(DiskError, match="No space left"):
        save_summary(example(), tmp_path / "summary.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_write_leaves_the_old_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskError, match="No space left"):
        WRITERS[name](path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_facts_that_cannot_be_shown_write_nothing(tmp_path: Path) -> None:
    summary = example()
    summary["rows"][0]["params"] = object()  # type: ignore[typeddict-item]
    with pytest.raises(TypeError):
        save_summary(summary, tmp_path / "summary.json")
    with pytest.raises(TypeError):
        save_report(summary, b"png", tmp_path / "report.html")
    with pytest.raises(FileNotFoundError):
        save_report(example(), tmp_path / "none.png", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    written = write_atomically(str(tmp_path / "b.txt"), "é\n")
    assert written.read_bytes() == "é\n".encode()
    assert written.stat().st_mode == (tmp_path / "other").stat().st_mode
