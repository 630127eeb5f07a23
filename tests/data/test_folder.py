"""Folders of classes, with and without splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_distill.data.media_paths import check_media
from lightning_distill.data.table_folder import read_folder


def fill(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"something")


def test_classes(tmp_path: Path) -> None:
    fill(tmp_path, "dog/b.PNG", "cat/deep/er/c.jpg", "cat/a.png", "cat/two words.jpg", "007/x.png")
    table = read_folder(tmp_path, [".png", ".JPG"])
    assert {name: cells.to_pylist() for name, cells in table.columns.items()} == {
        "path": ["007/x.png", "cat/a.png", "cat/deep/er/c.jpg", "cat/two words.jpg", "dog/b.PNG"],
        "label": ["007", "cat", "cat", "cat", "dog"],
    }
    assert table.where(1, "path") == f"{tmp_path}, row 2, column 'path'"
    check_media(table, "path", tmp_path, False)


def test_splits(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/a.png", "train/dog/b.png", "Validation/cat/c.png", "test/dog/d/e.png")
    table = read_folder(tmp_path, [".png"])
    assert list(zip(*(cells.to_pylist() for cells in table.columns.values()), strict=True)) == [
        ("Validation/cat/c.png", "cat", "validation"),
        ("test/dog/d/e.png", "dog", "test"),
        ("train/cat/a.png", "cat", "train"),
        ("train/dog/b.png", "dog", "train"),
    ]


def test_one_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    fill(tmp_path, "bus/a.png", "train/b.png")
    table = read_folder(tmp_path, [".png"])
    assert table.columns["label"].to_pylist() == ["bus", "train"]
    assert "split" not in table.columns


@pytest.mark.filterwarnings("error")
def test_hidden_folders_are_skipped_in_silence(tmp_path: Path) -> None:
    fill(tmp_path, ".git/a.png", "cat/.thumbs/a.png", "cat/a.png", ".b.png", "dog/.keep", "dog/b.png")
    assert read_folder(tmp_path, [".png"]).columns["path"].to_pylist() == ["cat/a.png", "dog/b.png"]


def test_a_class_may_be_in_one_split_only(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/a.png", "train/dog/b.png", "val/cat/c.png")
    assert read_folder(tmp_path, [".png"]).columns["split"].to_pylist() == ["train", "train", "val"]


def test_a_folder_without_images_can_be_a_folder_of_sounds(tmp_path: Path) -> None:
    fill(tmp_path, "yes/a.wav", "yes/a.txt", "no/b.flac")
    with pytest.warns(UserWarning, match="1 files or links"):
        table = read_folder(tmp_path, [".wav", ".flac"])
    assert table.columns["path"].to_pylist() == ["no/b.flac", "yes/a.wav"]
