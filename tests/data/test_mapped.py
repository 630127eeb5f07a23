"""Their data for our modules, our data for theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lightning_distill.data import MappedDataModule, as_batch, content_ids, read_batch
from lightning_distill.errors import ConfigError
from lightning_distill.teachers import FrozenTeacher
from tests.builders import make_batch, make_data, make_model, make_trainer
from tests.callbacks.foreign import Plain, PlainData, vectors
from tests.module.parts import make_module


def test_our_data_feed_a_foreign_module(tmp_path: Path) -> None:
    data = MappedDataModule(make_data(), lambda b: (b["inputs"]["a"], b["target"]))
    module = Plain()
    before = module.head.weight.detach().clone()
    trainer = make_trainer(tmp_path, limit_val_batches=0)
    trainer.fit(module, data)
    assert trainer.global_step == 4  # 28 samples in batches of 8
    assert not torch.equal(module.head.weight, before)


def test_foreign_data_feed_our_module(tmp_path: Path) -> None:
    theirs = PlainData()
    data = MappedDataModule(theirs, lambda b: as_batch({"a": b[0]}, b[1]))
    module, trainer = make_module(teacher=make_model(("a",))), make_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 4
    assert "val/accuracy" in trainer.callback_metrics
    assert "val/accuracy" in trainer.validate(module, datamodule=data, verbose=False)[0]
    assert "test/kd" in trainer.test(module, datamodule=data, verbose=False)[0]
    assert theirs.prepared == 3
    assert theirs.stages == ["fit", "validate", "test"]
    assert theirs.trainer is trainer
    assert data.state_dict() == {"prepared": 3}


class OnlyTrains(LightningDataModule):
    """Has no other loader."""

    def train_dataloader(self) -> Any:
        return PlainData().train_dataloader()


def test_data_without_validation(tmp_path: Path) -> None:
    data = MappedDataModule(OnlyTrains(), lambda b: as_batch({"a": b[0]}, b[1]))
    module = make_module(teacher=make_model(("a",)))
    trainer = make_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 4


class OnDevice(OnlyTrains):
    """Changes batches where ours would be already."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


def test_data_that_go_on_after_the_transfer_are_refused() -> None:
    with pytest.raises(ConfigError, match="OnDevice: found a on_after_batch_transfer of its own"):
        MappedDataModule(OnDevice(), as_batch)  # type: ignore[arg-type]


def test_ids_follow_from_the_sample_alone() -> None:
    x, tokens = torch.randn(6, 3), {"ids": torch.arange(12).view(6, 2), "mask": torch.ones(6, 2)}
    ids = content_ids({"image": x, "text": tokens})
    assert ids.dtype == torch.int64
    assert len(set(ids.tolist())) == 6
    order = torch.tensor([3, 1])
    part = {"text": {"mask": tokens["mask"][order], "ids": tokens["ids"][order]}, "image": x[order]}
    assert torch.equal(content_ids(part), ids[order])
    assert not set(content_ids({"other": x, "text": tokens}).tolist()) & set(ids.tolist())
    changed = x.clone()
    changed[2, 1] += 1e-6
    assert (content_ids({"image": changed, "text": tokens}) != ids).tolist() == [False, False, True] + [
        False
    ] * 3


def test_what_is_given_is_kept() -> None:
    present = torch.tensor([True, False])
    batch = as_batch({"a": torch.zeros(2, 6)}, torch.tensor([1, 2]), torch.tensor([7, 8]), {"a": present})
    assert batch["sample_id"].tolist() == [7, 8]
    assert torch.equal(batch["present"]["a"], present)
    assert batch["target"].tolist() == [1, 2]


@pytest.mark.parametrize("inputs", [{}, {"a": torch.zeros(2, 6), "b": torch.zeros(3, 6)}])
def test_sizes_that_differ(inputs: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match="as_batch"):
        as_batch(inputs)
    with pytest.raises(ConfigError, match="as_batch"):
        as_batch({"a": torch.zeros(2, 6)}, torch.zeros(3))


X, Y = vectors(4)


@pytest.mark.parametrize("batch", [(X, Y), [X, Y, "more"], {"x": X, "labels": Y}, X])
def test_batches_of_others_are_read(batch: Any) -> None:
    read = read_batch(batch)
    inputs = read["inputs"]["input"]
    assert torch.equal(inputs["x"] if isinstance(inputs, dict) else inputs, X)
    assert torch.equal(read["target"], torch.zeros(4) if batch is X else Y)
    assert torch.equal(read["sample_id"], content_ids({"input": inputs}))
    with pytest.raises(KeyError):
        read["no such thing"]  # type: ignore[typeddict-item]


def test_ours_stays_as_it_is() -> None:
    batch = make_batch()
    assert read_batch(batch) is batch


@pytest.mark.parametrize("batch", ["text", ("a", "b"), (), {"label": Y}])
def test_what_is_no_batch(batch: Any) -> None:
    with pytest.raises(ConfigError, match="read_batch"):
        read_batch(batch)


def test_a_read_batch_can_be_given_to_a_model() -> None:
    teacher = FrozenTeacher(make_model(("a",)))
    assert teacher(as_batch({"a": X})).logits.shape == (4, 3)
