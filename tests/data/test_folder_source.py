"""Samples in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightning_distill.data import FolderSource, ManifestSource, StratifiedSplit
from lightning_distill.errors import ConfigError, ManifestError, SampleError
from tests.data.media import assert_same, batches, make_module, png, wav


def fill(root: Path, splits: tuple[str, ...], suffix: str = ".png", each: int = 6) -> None:
    for at, split in enumerate(splits):
        for label in ("cat", "ant"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(each):
                seed = number + 100 * at + 1000 * (label == "cat")
                (folder / f"{number}{suffix}").write_bytes(png(seed) if suffix == ".png" else wav(seed))


def test_splits_and_classes(tmp_path: Path) -> None:
    fill(tmp_path, ("train", "validation"))
    source = FolderSource(tmp_path)
    assert source.classes == ("ant", "cat")
    assert [len(source.samples.rows_of(split)) for split in ("train", "val", "test")] == [12, 12, 0]
    assert source.describe(0) == f"{tmp_path}, row 1"
    assert FolderSource(tmp_path, classes=["cat", "ant"]).samples.target[0] == 1
    assert_same(batches(make_module(source)), batches(make_module(source, num_workers=2)))


def test_ids_are_those_of_a_manifest_with_the_same_paths(tmp_path: Path) -> None:
    fill(tmp_path, ("",))
    paths = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    lines = ["image,label", *(f"{path},{path.partition('/')[0]}" for path in paths)]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="m.csv"):
        source = FolderSource(tmp_path)
    other = ManifestSource(tmp_path / "m.csv", {"image": "image"})
    assert np.array_equal(source.samples.sample_id, other.samples.sample_id)
    assert np.array_equal(source.samples.split, other.samples.split)


def test_sounds(tmp_path: Path) -> None:
    fill(tmp_path, ("",), ".wav")
    source = FolderSource(tmp_path, "audio", splitter=StratifiedSplit(0.5, 0))
    counts = np.bincount(source.samples.target[source.samples.rows_of("val")])
    assert set(counts.tolist()) <= {2, 3, 4}
    assert source.load("audio", 0).sample_rate == 8000


def test_faults(tmp_path: Path) -> None:
    fill(tmp_path, ("",))
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        FolderSource(tmp_path, "images")
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(SampleError, match=r"'cat/1.png' \(row 8\) is empty"):
        FolderSource(tmp_path)
    (tmp_path / "cat" / "1.png").write_bytes(b"nonsense")
    with pytest.raises(SampleError, match=r"row 8, column 'path': found cat/1\.png: "):
        FolderSource(tmp_path).load("image", 7)
    (tmp_path / "cow").mkdir()
    with pytest.raises(ManifestError, match="cow: found a class without files"):
        FolderSource(tmp_path)
    with pytest.raises(ManifestError, match="nowhere"):
        FolderSource(tmp_path / "nowhere")
