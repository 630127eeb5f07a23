"""Folders that litdata has optimised, as a stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_distill.data import LitDataStream, SingleLabel
from lightning_distill.errors import ConfigError, ManifestError
from tests.data.media import assert_same, png, wav
from tests.data.parts import check_every_sample_once, epoch, ids

pytest.importorskip("litdata", reason="needs the package litdata")
MODALITIES = {"image": "picture", "text": "caption", "audio": "sound"}
LABEL = SingleLabel("label", classes=["0", "1"])


def write(folder: Path, keys: range, chunk: int, **more: Any) -> Path:
    """As `litdata.optimize` does, without its processes."""
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir(parents=True)
    writer = BinaryWriter(str(folder), chunk_size=chunk)
    for at, key in enumerate(keys):
        media = {"picture": png(key), "sound": wav(key)}
        writer[at] = {**media, "caption": f"text {key}", "label": key % 2, "weight": 0.5, **more}
    writer.done()
    writer.merge()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train", range(22), 8)
    write(tmp_path / "val", range(30, 37), 4)
    return tmp_path


def make(root: Path, **options: Any) -> LitDataStream:
    folders = {split: str(root / split) for split in ("train", "val")}
    settings = {"folder": folders, "modalities": MODALITIES, "target": LABEL, "buffer": 6, "readers": 2}
    return LitDataStream(**(settings | options))


def test_samples(folder: Path) -> None:
    source = make(folder)
    assert list(source.sizes("train")) == [8, 8, 6]
    found = list(source.stream("val", 0))
    assert [sample.raw["text"] for sample in found] == [f"text {key}" for key in range(30, 37)]
    assert [sample.raw["image"] for sample in found] == [png(key) for key in range(30, 37)]
    assert [int(sample.target) for sample in found] == [0, 1, 0, 1, 0, 1, 0]
    assert {sample.weight for sample in found} == {0.5}
    assert source.load(found[0], "audio").sample_rate == 8000


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_once_an_epoch(folder: Path, split: str, world: int, workers: int) -> None:
    check_every_sample_once(make(folder), split, world, workers)


def test_workers_and_resuming_change_nothing(folder: Path) -> None:
    whole = epoch(make(folder), "train", number=1)
    assert_same(whole, epoch(make(folder), "train", number=1, workers=3))
    assert_same(whole[2:], epoch(make(folder), "train", number=1, first=(1, 2)))
    assert ids(whole) != ids(epoch(make(folder), "train"))


def test_images_litdata_would_decode_are_taken_as_they_were_written(tmp_path: Path) -> None:
    from litdata.types import Image

    write(tmp_path / "a", range(3), 8, other=Image(bytes=png(9)))
    source = LitDataStream(str(tmp_path / "a"), {"image": "other"}, LABEL)
    assert [sample.raw["image"] for sample in source.stream("train", 0)] == [png(9)] * 3


def test_a_damaged_chunk_is_named(folder: Path) -> None:
    source = make(folder)
    path = folder / "train" / "chunk-0-1.bin"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ManifestError, match=r"train/chunk-0-1.bin: found a chunk that cannot be read"):
        epoch(source, "train")


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "odd", range(3), 8, more={1, 2})
    with pytest.raises(ManifestError, match="key 'more': found the format 'pickle'"):
        make(folder, folder=str(tmp_path / "odd"))
    with pytest.raises(ManifestError, match=r"no column 'captoin'.*'caption'"):
        make(folder, modalities={"text": "captoin"})
    with pytest.raises(ManifestError, match="is missing"):
        make(folder, folder=str(tmp_path / "nowhere"))
    for options in ({"folder": "s3://bucket/a"}, {"folder": {"trian": "a"}}, {"target": SingleLabel()}):
        with pytest.raises(ConfigError, match="LitDataStream"):
            make(folder, **options)  # type: ignore[arg-type]
    index = folder / "train" / "index.json"
    index.write_text(json.dumps({"chunks": []}))
    with pytest.raises(ManifestError, match="no index of samples"):
        make(folder)
