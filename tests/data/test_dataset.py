"""Batches from real files: the same for any number of workers, from memory or disk, in every epoch anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import seed_everything
from torch import Tensor

from lightning_distill import data
from lightning_distill.data import (
    AudioProcessor,
    BatchKey,
    BatchSampler,
    ByteTextProcessor,
    ImageProcessor,
    ImageTextAudioDataModule,
    ImageViews,
    ManifestSource,
    MultimodalDataModule,
    MultimodalDataset,
    Shuffle,
)
from lightning_distill.data.dataset import Reading
from lightning_distill.errors import ConfigError, ManifestError, SampleError
from lightning_distill.structures import UNLABELLED, Batch
from tests.builders import DIMS, VectorProcessor, VectorSource

SPLITS = ["train"] * 13 + ["val"] * 5 + ["test"] * 2
COLUMNS = {"image": "image", "text": "text", "audio": "audio"}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """20 rows of image, text and sound; row 1 has no image, row 2 no text, row 3 no sound, row 4 no label."""
    rng = np.random.default_rng(0)
    lines = ["image,text,audio,label,split"]
    for row, split in enumerate(SPLITS):
        cv2.imwrite(str(tmp_path / f"{row}.png"), rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        soundfile.write(tmp_path / f"{row}.wav", rng.normal(0, 0.1, 2000 + 100 * row), 8000)
        cells = [f"{row}.png", f"text {'x' * row}", f"{row}.wav", "ab"[row % 2], split]
        if 1 <= row <= 4:
            cells[row - 1] = ""
        lines.append(",".join(cells))
    path = tmp_path / "m.csv"
    path.write_text("\n".join(lines))
    return path


def make(manifest: Path, **options: Any) -> MultimodalDataModule:
    processors = {
        "image": ImageProcessor(16, 3, max_shift=0.2),
        "text": ByteTextProcessor(),
        "audio": AudioProcessor(8000, 0.25, mels=12, max_shift=0.2),
    }
    return ImageTextAudioDataModule(ManifestSource(manifest, COLUMNS), processors, batch_size=4, **options)


def flat(batch: Batch) -> dict[str, Tensor]:
    """All tensors of a batch by name; text without columns that only pad."""
    found = {"target": batch["target"], "sample_id": batch["sample_id"], "domain": batch["domain"]}
    found |= {f"present {m}": present for m, present in batch["present"].items()}
    for modality, inputs in batch["inputs"].items():
        if isinstance(inputs, Tensor):
            found[modality] = inputs
        else:
            used = int(inputs["attention_mask"].sum(1).max())
            assert not inputs["input_ids"][:, used:].any()
            found |= {f"{modality} {key}": value[:, :used] for key, value in inputs.items()}
    return found


def epochs(module: MultimodalDataModule, split: str = "train", count: int = 2) -> Iterator[dict[str, Tensor]]:
    module.setup("fit")
    loader = module.train_dataloader() if split == "train" else module.val_dataloader()
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        yield from map(flat, loader)


def assert_same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> None:
    assert len(one) == len(other) > 0
    for mine, theirs in zip(one, other, strict=True):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), name


def test_any_number_of_workers_gives_the_same_batches(manifest: Path) -> None:
    seed_everything(3, verbose=False)
    alone = list(epochs(make(manifest)))
    assert len(alone) == 2 * 4
    assert_same(alone, list(epochs(make(manifest, num_workers=2))))


@pytest.mark.parametrize("split", ["train", "val"])
def test_memory_gives_the_same_batches_as_disk(manifest: Path, split: str) -> None:
    assert_same(list(epochs(make(manifest), split)), list(epochs(make(manifest, in_memory=True), split)))


def test_memory_is_filled_block_by_block() -> None:
    source = VectorSource(train=600, val=0, absent={"a": [3, 300]})
    processors = {"a": VectorProcessor(DIMS["a"])}
    disk, memory = (
        MultimodalDataset(source, np.arange(600), Reading(processors, in_memory=in_memory))
        for in_memory in (False, True)
    )
    for start in range(0, 600, 64):
        key = BatchKey(1, np.arange(start, min(start + 64, 600))[::-1].copy())
        assert_same([flat(disk[key])], [flat(memory[key])])  # type: ignore[arg-type]


def test_the_seed_changes_order_and_augmentation(manifest: Path) -> None:
    runs = []
    for seed in (3, 3, 4):
        seed_everything(seed, verbose=False)
        runs.append(list(epochs(make(manifest))))
    assert_same(runs[0], runs[1])
    assert [b["sample_id"].tolist() for b in runs[0]] != [b["sample_id"].tolist() for b in runs[2]]
    first, second = _images(runs[0][:4]), _images(runs[0][4:])
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[i], second[i]) for i in first)


def _images(batches: list[dict[str, Tensor]]) -> dict[int, Tensor]:
    return {int(i): x for b in batches for i, x in zip(b["sample_id"], b["image"], strict=True)}


def test_validation_is_not_augmented(manifest: Path) -> None:
    first, second = np.array_split(list(epochs(make(manifest), "val")), 2)
    assert_same(list(first), list(second))


def test_absent_cells_are_blank_and_marked(manifest: Path) -> None:
    module = make(manifest)
    by_id = {int(i): (b, at) for b in map(flat, _train(module)) for at, i in enumerate(b["sample_id"])}
    ids = module.source.samples.sample_id
    for row, modality in enumerate(COLUMNS, start=1):
        batch, at = by_id[int(ids[row])]
        assert [bool(batch[f"present {m}"][at]) for m in COLUMNS] == [m != modality for m in COLUMNS]
        name = {"text": "text input_ids"}.get(modality, modality)
        processor = module.processors[modality]
        blank = processor.collate([processor.blank()])
        expected = blank["input_ids"][0] if isinstance(blank, dict) else blank[0]
        found = batch[name][at]
        assert torch.equal(found[: len(expected)], expected)
    batch, at = by_id[int(ids[4])]
    assert batch["target"][at] == UNLABELLED


def _train(module: MultimodalDataModule) -> list[Batch]:
    module.setup("fit")
    return list(module.train_dataloader())


def test_unlabelled_rows_may_be_left_out(manifest: Path) -> None:
    assert sum(len(b["target"]) for b in _train(make(manifest))) == 13
    labelled = _train(make(manifest, sampling=Shuffle(unlabelled=False)))
    assert sum(len(b["target"]) for b in labelled) == 12
    assert all((b["target"] != UNLABELLED).all() for b in labelled)


def test_rows_without_any_of_the_modalities_are_left_out(manifest: Path) -> None:
    module = MultimodalDataModule(ManifestSource(manifest, COLUMNS), {"text": ByteTextProcessor()})
    assert (len(module.rows("train")), len(make(manifest).rows("train"))) == (12, 13)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 3), st.integers(0, 5))
def test_every_rank_has_its_part(size: int, batch_size: int, world: int, epoch: int) -> None:
    def positions(train: bool) -> list[list[int]]:
        parts = []
        for rank in range(world):
            sampler = BatchSampler(size, batch_size, 0, train, rank, world)
            sampler.set_epoch(epoch)
            keys = list(sampler)
            assert len(keys) == len(sampler)
            assert all(key.epoch == epoch and 1 <= len(key.positions) <= batch_size for key in keys)
            parts.append([int(p) for key in keys for p in key.positions])
        return parts

    assert sorted(p for part in positions(train=False) for p in part) == list(range(size))
    parts = positions(train=True)
    assert {len(part) for part in parts} == {size // world}
    assert len({p for part in parts for p in part}) == size // world * world


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int, before: tuple[int, ...] = ()) -> list[int]:
        sampler = BatchSampler(50, 8, seed, train=True)
        for other in before:
            sampler.set_epoch(other)
            list(sampler)
        sampler.set_epoch(epoch)
        return [int(p) for key in sampler for p in key.positions]

    assert order(0, 7) == order(0, 7, before=(0, 1, 2))
    assert sorted(order(0, 7)) == list(range(50))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_a_run_goes_on_within_an_epoch() -> None:
    whole = BatchSampler(50, 8, 0, train=True)
    whole.set_epoch(2)
    resumed = BatchSampler(50, 8, 0, train=True, first=(2, 3))
    for mine, theirs in zip(list(whole)[3:], resumed, strict=True):
        assert np.array_equal(mine.positions, theirs.positions)
    whole.set_epoch(3)
    resumed.set_epoch(3)
    assert len(list(resumed)) == len(list(whole)) == 7


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named_whoever_reads_it(manifest: Path, workers: int) -> None:
    module = make(manifest, num_workers=workers)
    (manifest.parent / "14.png").write_bytes(b"<html>")
    module.setup("validate")
    with pytest.raises(SampleError) as caught:
        list(module.val_dataloader())
    assert caught.value.where == f"{manifest}, row 16, column 'image'"
    assert "an HTML page" in caught.value.found


def test_a_sample_its_processor_cannot_prepare_is_named(manifest: Path) -> None:
    class Strange(ManifestSource):
        def load(self, modality: str, row: int) -> Any:
            return np.zeros((3, 3, 9), np.uint8)

    source = Strange(manifest, COLUMNS)
    module = MultimodalDataModule(source, {"image": ImageProcessor(8)})
    module.setup("validate")
    with pytest.raises(SampleError, match=r"row 15, image: found .*\(3, 3, 9\)"):
        list(module.val_dataloader())


def test_an_empty_split_is_found_at_setup(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace(",val", ",train"))
    with pytest.raises(ManifestError, match=r"split 'val'.*0 usable rows of 20"):
        make(manifest).setup("fit")


def test_processors_must_fit(manifest: Path) -> None:
    source = ManifestSource(manifest, COLUMNS)
    with pytest.raises(ConfigError, match=r"processors for \['text'\]"):
        ImageTextAudioDataModule(source, {"text": ByteTextProcessor()})
    with pytest.raises(ConfigError, match="did you mean 'text'"):
        MultimodalDataModule(source, {"texts": ByteTextProcessor()})
    with pytest.raises(ConfigError, match="batch_size"):
        MultimodalDataModule(source, {"text": ByteTextProcessor()}, batch_size=0)


def test_there_is_a_data_module_for_every_combination() -> None:
    modules = [getattr(data, name) for name in data.__all__ if name.endswith("DataModule")]
    modules = [module for module in modules if issubclass(module, data.MultimodalDataModule)]
    fixed = {m.modalities for m in modules if m.modalities}
    assert len(fixed) == 7
    for module in modules:
        if module.modalities:
            assert module.__name__ == "".join(m.capitalize() for m in module.modalities) + "DataModule"


@pytest.mark.row("S10")
def test_a_teacher_with_other_preprocessing_sees_the_same_view(manifest: Path) -> None:
    """Another size, tokenizer and sample rate; the teacher's picture, shrunk, is the student's."""
    processors = {
        "image": ImageProcessor(16, 3, max_shift=0.3, views=ImageViews(0.3, flip=True)),
        "text": ByteTextProcessor(max_length=20),
    }
    teacher_processors = {
        "image": ImageProcessor(64, 3, max_shift=0.3, views=ImageViews(0.3, flip=True)),
        "audio": AudioProcessor(4000, 0.25, mels=12),
    }
    module = ImageTextAudioDataModule(
        ManifestSource(manifest, COLUMNS), processors, batch_size=4, teacher_processors=teacher_processors
    )
    (first, *_), alone = _train(module), _train(make(manifest))
    assert set(first["inputs"]) == {"image", "text"}
    assert set(first["teacher_inputs"]) == {"image", "audio"}
    assert set(first["present"]) == {"image", "text", "audio"}
    assert torch.equal(first["sample_id"], alone[0]["sample_id"])
    small, large = first["inputs"]["image"], first["teacher_inputs"]["image"]
    assert isinstance(small, Tensor)
    assert isinstance(large, Tensor)
    assert large.shape[-1] == 64
    there = first["present"]["image"]
    shrunk = torch.nn.functional.avg_pool2d(large[there].float(), 4)
    for mine, theirs, other in zip(small[there].float(), shrunk, shrunk.roll(1, 0), strict=True):
        assert (mine - theirs).abs().mean() < 0.5 * (mine - other).abs().mean()


@pytest.mark.row("S10")
def test_S10_views_that_differ_are_refused(manifest: Path) -> None:
    source = ManifestSource(manifest, COLUMNS)
    ours = {"image": ImageProcessor(16, 3, max_shift=0.3)}
    with pytest.raises(ConfigError, match=r"teacher_processors\['image'\].*same view"):
        MultimodalDataModule(source, ours, teacher_processors={"image": ImageProcessor(32, 3)})
    with pytest.raises(ConfigError, match="in_memory"):
        MultimodalDataModule(source, {"image": ImageProcessor(16, 3, views=ImageViews())}, in_memory=True)


def test_counts_of_each_combination_are_told(manifest: Path) -> None:
    assert make(manifest).report() == [
        "train: 13 samples, 12 labelled (image+text+audio 10, text+audio 1, image+audio 1, image+text 1)",
        "val: 5 samples, 5 labelled (image+text+audio 5)",
        "test: 2 samples, 2 labelled (image+text+audio 2)",
    ]
