"""WebDataset shards as a stream: every sample once, for any number of ranks and workers; what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from lightning_distill.data import (
    PartStream,
    ShardSource,
    SingleLabel,
    StreamSample,
    StreamSource,
    WebDatasetStream,
)
from lightning_distill.data.part_dataset import PartDataset, PartSampler
from lightning_distill.data.reading import Reading
from lightning_distill.data.shard_members import follow, scan
from lightning_distill.errors import ConfigError, ManifestError, SampleError
from tests.builders import VectorProcessor
from tests.data.media import assert_same, batches, make_module, png
from tests.data.parts import check_every_sample_once, epoch, ids
from tests.data.test_shards import MODALITIES, sample, write

LABEL = SingleLabel("cls", classes=["0", "1"])
SIZES = {"train-0": 9, "train-1": 8, "train-2": 5, "val-0": 3, "val-1": 4}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three uneven shards to train on, two to validate."""
    start = 10
    for name, size in SIZES.items():
        members = (member for key in range(start, start + size) for member in sample(key))
        write(tmp_path / f"{name}.tar", members)
        start += size
    return tmp_path


def make(folder: Path, **options: Any) -> WebDatasetStream:
    shards = {split: f"{folder}/{split}-*.tar" for split in ("train", "val")}
    return WebDatasetStream(
        **({"shards": shards, "modalities": MODALITIES, "target": LABEL, "buffer": 6, "readers": 2} | options)
    )


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_once_an_epoch(shards: Path, split: str, world: int, workers: int) -> None:
    check_every_sample_once(make(shards), split, world, workers)


@pytest.mark.parametrize("split", ["train", "val"])
def test_any_number_of_workers_gives_the_same_batches(shards: Path, split: str) -> None:
    alone = epoch(make(shards), split)
    for workers in (1, 3):
        assert_same(alone, epoch(make(shards), split, workers=workers))


def test_samples_are_those_of_the_index(shards: Path) -> None:
    options: Any = {"modalities": MODALITIES, "target": LABEL}
    indexed = ShardSource({split: f"{shards}/{split}-*.tar" for split in ("train", "val")}, **options)
    assert_same(batches(make_module(make(shards, readers=1)), "val"), batches(make_module(indexed), "val"))
    assert make(shards).classes == indexed.classes == ("0", "1")


def test_order_changes_with_the_epoch_and_resumes_in_it(shards: Path) -> None:
    source = make(shards)
    first, second = epoch(source, "train"), epoch(source, "train", number=1)
    assert ids(first) != ids(second)
    assert_same(second[2:], epoch(source, "train", number=1, first=(1, 2)))
    assert_same(second[3:], epoch(source, "train", number=1, first=(1, 3), workers=2))


def test_each_reader_opens_its_own_shards(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks with half of the samples each, and a shard is as much."""
    source, read = make(shards, readers=1), set[tuple[int, int]]()
    walk = WebDatasetStream.walk

    def noted(self: Any, split: str, part: int, first: int) -> Iterator[StreamSample]:
        read.add((rank, part))
        return walk(self, split, part, first)

    monkeypatch.setattr(WebDatasetStream, "walk", noted)
    for rank in (0, 1):
        epoch(source, "val", rank, 2)
    assert read == {(0, 0), (1, 1)}


def test_counts_are_kept_until_a_shard_changes(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(make(shards).sizes("train")) == [9, 8, 5]
    opened: list[Path] = []
    monkeypatch.setattr("lightning_distill.data.shard_sizes.follow", lambda p: opened.append(p) or follow(p))
    make(shards)
    assert opened == []
    write(shards / "train-2.tar", sample(90))
    assert list(make(shards).sizes("train")) == [9, 8, 1]
    assert opened


def test_counts_may_be_given(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shards / "sizes.json").write_text(json.dumps({f"{name}.tar": size for name, size in SIZES.items()}))
    monkeypatch.setattr("lightning_distill.data.shard_sizes.follow", None)
    assert list(make(shards, sizes=f"{shards}/sizes.json").sizes("val")) == [3, 4]


@pytest.mark.parametrize("said", [4, 6])
def test_counts_that_are_wrong_are_found(shards: Path, said: int) -> None:
    sizes = {f"{name}.tar": size for name, size in SIZES.items()} | {"train-2.tar": said}
    (shards / "sizes.json").write_text(json.dumps(sizes))
    source = make(shards, sizes=f"{shards}/sizes.json", readers=1)
    with pytest.raises(ManifestError, match=rf"train-2.tar: .*expected {said}, as it was said"):
        list(source.stream("train", 0))


def test_weights_where_a_block_has_none(tmp_path: Path) -> None:
    members = [(f"{key}.{kind}", text) for key in range(40) for kind, text in (("txt", b"t"), ("cls", b"0"))]
    write(tmp_path / "a.tar", [*members[:2], ("0.json", b'{"weight": 0.25}'), *members[2:]])
    source = WebDatasetStream(f"{tmp_path}/a.tar", {"text": "txt"}, LABEL)
    weights = [sample.weight for sample in source.stream("train", 0)]
    assert weights == [0.25, *[1.0] * 39]


def test_it_is_built_from_yaml(shards: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(StreamSource, "source")
    label = "{class_path: lightning_distill.data.SingleLabel, init_args: {column: cls, classes: ['0', '1']}}"
    text = (
        "source:\n  class_path: lightning_distill.data.WebDatasetStream\n  init_args:\n"
        f'    shards: "{shards}/train-{{0..2}}.tar"\n    modalities: {{image: png}}\n    target: {label}\n'
    )
    source = parser.instantiate_classes(parser.parse_string(text)).source
    assert source.splits == ("train",)


# -- how an epoch is divided ------------------------------------------------------------------------------


class Numbers(PartStream):
    """Samples 0, 1, ... in parts of given sizes."""

    classes, modalities, splits, buffer = ("x", "y"), ("a",), ("train", "val"), 3

    def __init__(self, parts: list[int], readers: int) -> None:
        self.parts, self.readers = parts, readers

    def sizes(self, split: str) -> list[int]:
        return self.parts

    def part_name(self, split: str, part: int) -> str:
        return f"part {part}"

    def walk(self, split: str, part: int, first: int) -> Iterator[StreamSample]:
        start = sum(self.parts[:part])
        for at in range(start + first, start + self.parts[part]):
            yield StreamSample({"a": at}, np.int64(0), at, f"sample {at}")

    def load(self, sample: StreamSample, modality: str) -> Any:
        return np.full(2, sample.raw["a"], np.float32)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 3),
    st.booleans(),
)
def test_ranks_divide_an_epoch(parts: list[int], size: int, readers: int, world: int, train: bool) -> None:
    reading = Reading({"a": VectorProcessor(2)}, split="train" if train else "val")
    found: list[list[list[int]]] = []
    for rank in range(world):
        data = PartDataset(Numbers(parts, readers), reading)
        sampler = PartSampler(sum(parts), readers, size, train, rank, world)
        keys = list(sampler)
        assert len(keys) == len(sampler)
        assert [key.number for key in keys] == list(range(len(keys)))
        found.append([data[key]["sample_id"].tolist() for key in keys])  # type: ignore[arg-type,index]
    seen = [i for part in found for batch in part for i in batch]
    assert len(set(seen)) == len(seen)
    if train:
        assert {len(part) for part in found} == {sum(parts) // (size * world)}
        assert all(len(batch) == size for part in found for batch in part)
        return
    assert sorted(seen) == list(range(sum(parts)))
    assert all(0 < len(batch) <= size for part in found for batch in part)
    if size > 1 and sum(parts) >= world:
        assert len({len(part) for part in found}) == 1


# -- faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_named(shards: Path, workers: int) -> None:
    source = make(shards)
    path = shards / "train-1.tar"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ManifestError, match=r"train-1.tar: found a damaged tar .*epoch 0, batch"):
        epoch(source, "train", workers=workers)


def test_a_damaged_shard_is_named_when_it_is_counted(shards: Path) -> None:
    path = shards / "val-1.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ManifestError, match=r"val-1.tar"):
        make(shards)


def test_members_apart_from_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", [("0.txt", b"a"), ("1.txt", b"b"), ("0.cls", b"0")])
    assert len(scan(path)) == 2
    with pytest.raises(ManifestError, match=r"a.tar, member '0.cls': .*ShardSource"):
        list(follow(path))


def test_a_sample_without_any_modality_of_the_students_is_named(tmp_path: Path) -> None:
    members = [(f"{key}.{kind}", png(key)) for key in range(3) for kind in ("png", "x")]
    write(tmp_path / "a.tar", [member for member in members if member[0] != "1.png"])
    label = SingleLabel("__url__", classes=["a.tar", "b"])
    source = WebDatasetStream(f"{tmp_path}/a.tar", {"image": "png"}, label)
    with pytest.raises(SampleError, match=r"sample '1': found none of the modalities image"):
        epoch(source, "train", batch_size=3)


def test_settings_that_are_refused(shards: Path) -> None:
    for options, word in (
        ({"target": SingleLabel("cls")}, "classes"),
        ({"modalities": {"image": "pkl"}}, "pickles"),
        ({"modalities": {"smell": "png"}}, "smell"),
        ({"readers": 0}, "readers"),
        ({"shards": "https://host/a.tar"}, "no file of this machine"),
    ):
        with pytest.raises(ConfigError, match=word):
            make(shards, **options)  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match="no 'jpeg' in any of 9 samples"):
        make(shards, modalities={"image": "jpeg"})
    with pytest.raises(ManifestError, match=r"7 samples for 2 processes .*at least 8"):
        epoch(make(shards, shards=f"{shards}/val-*.tar"), "train", 0, 2)


def test_sizes_that_are_no_sizes(shards: Path) -> None:
    file = shards / "sizes.json"
    for content, word in (
        ("[1]", "no JSON object"),
        ('{"train-0.tar": -1}', "found -1"),
        ("{}", "found nothing"),
    ):
        file.write_text(content)
        with pytest.raises(ManifestError, match=word):
            make(shards, sizes=str(file))
