"""Samples that cannot be read while training runs, and lost workers. Fault rows I8, I9, I10, A6, M20."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing import resource_sharer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from numpy.typing import NDArray

from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.loader import BatchLoader
from lightning_distill.errors import ManifestError, SampleError, WorkerError
from lightning_distill.randomness import View
from lightning_distill.structures import UNLABELLED, Batch
from tests.builders import DIMS, VectorProcessor, VectorSource, make_data, make_trainer
from tests.module.parts import make_module

BAD = (5, 17)


@pytest.fixture(autouse=True)
def _short_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that hangs is ended soon, not after torch's five seconds."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)


class Broken(VectorSource):
    """Some rows cannot be read."""

    bad: tuple[int, ...] = BAD

    def load(self, modality: str, row: int) -> NDArray[np.float64]:
        if row in self.bad and modality == "b":
            raise SampleError(where=f"row {row}", found="damage", expected="none", fix="repair it")
        return super().load(modality, row)


def batches(data: MultimodalDataModule, split: str = "train", epochs: int = 2) -> list[Batch]:
    data.setup("fit")
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    found = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        found += list(loader)
    return found


def big(**options: Any) -> MultimodalDataModule:
    """300 rows: three may be bad in an epoch."""
    seed_everything(2, verbose=False)
    return make_data(Broken(train=300, val=40), on_bad_sample="substitute", **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_I8_a_fault_in_the_middle_of_an_epoch_says_when_and_where(workers: int) -> None:
    with pytest.raises(SampleError) as caught:
        batches(make_data(Broken(), num_workers=workers))
    assert caught.value.where in ("row 5", "row 17")
    assert "damage (epoch 0, batch " in caught.value.found
    assert ("read by the main process" if not workers else "read by worker ") in caught.value.found


def test_I8_a_file_that_disappears_while_training_runs(tmp_path: Path) -> None:
    class Vanishing(Broken):
        bad = ()

    class Remove(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                Vanishing.bad = (9,)

    data = make_data(Vanishing())
    with pytest.raises(SampleError, match=r"row 9: found damage .epoch 1, batch"):
        make_trainer(tmp_path, max_epochs=3, callbacks=[Remove()]).fit(make_module(), datamodule=data)


def test_a_substitute_is_the_same_whoever_reads() -> None:
    runs = [batches(big(num_workers=workers)) for workers in (0, 0, 2)]
    for other in runs[1:]:
        for mine, theirs in zip(runs[0], other, strict=True):
            assert torch.equal(mine["sample_id"], theirs["sample_id"])
            assert torch.equal(mine["inputs"]["a"], theirs["inputs"]["a"])  # type: ignore[arg-type]
            assert torch.equal(mine["target"], theirs["target"])
    ids = torch.cat([b["sample_id"] for b in runs[0]]) - 5000
    assert len(ids) == 600
    assert not set(ids.tolist()) & set(BAD)
    source = VectorSource(train=300, val=40)
    for batch in runs[0]:
        assert batch["target"].tolist() == source.samples.target[batch["sample_id"] - 5000].tolist()


def test_every_substitute_is_written_down(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    trainer.fit(make_module(), datamodule=big())
    records = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert len(records) == 4
    assert {(r["epoch"], r["where"]) for r in records} == {(e, f"row {row}") for e in (0, 1) for row in BAD}
    assert all(r["split"] == "train" and r["found"] == "damage" for r in records)
    assert all(r["substitute"].startswith("row ") and r["substitute"] != r["where"] for r in records)


def test_too_many_bad_samples_stop_after_all(tmp_path: Path) -> None:
    class Worse(Broken):
        bad = (1, 2, 3, 4)

    data = make_data(Worse(train=300), on_bad_sample="substitute")
    with pytest.raises(SampleError, match="bad sample 4 of this epoch; expected at most 3 of 300"):
        make_trainer(tmp_path).fit(make_module(), datamodule=data)
    assert len((tmp_path / "bad_samples.jsonl").read_text().splitlines()) == 4


def test_in_memory_a_bad_sample_is_replaced_once(tmp_path: Path) -> None:
    found = batches(big(in_memory=True))
    ids = torch.cat([b["sample_id"] for b in found]).tolist()
    assert not {i - 5000 for i in ids} & set(BAD)
    make_trainer(tmp_path, limit_val_batches=0).fit(make_module(), datamodule=big(in_memory=True))
    assert len((tmp_path / "bad_samples.jsonl").read_text().splitlines()) == len(BAD)


@pytest.mark.parametrize("in_memory", [False, True])
def test_in_evaluation_a_substitute_is_not_counted(in_memory: bool) -> None:
    class BadValidation(Broken):
        bad = (301,)

    data = make_data(BadValidation(train=300, val=40), on_bad_sample="substitute", in_memory=in_memory)
    found = batches(data, "val", epochs=1)
    ids = torch.cat([b["sample_id"] for b in found]) - 5000
    target = torch.cat([b["target"] for b in found])
    assert len(ids) == 40
    assert target[1] == UNLABELLED
    assert sorted(ids[target != UNLABELLED].tolist()) == [i for i in range(300, 340) if i != 301]


class Dying(VectorSource):
    """Reading row 11 ends the process that reads, or takes for ever."""

    how = "abort"

    def load(self, modality: str, row: int) -> NDArray[np.float64]:
        if row == 11:
            if self.how == "hang":
                time.sleep(120)
            os.kill(os.getpid(), signal.SIGKILL if self.how == "kill" else signal.SIGABRT)
        return super().load(modality, row)

    def describe(self, row: int) -> str:
        return f"file {row}.png"


@pytest.mark.parametrize(
    ("how", "words"), [("kill", "died"), ("abort", "died"), ("hang", "not answered")], ids=["I10", "A6", "I9"]
)
def test_a_lost_worker_says_what_it_was_reading(
    how: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dying, "how", how)
    monkeypatch.setattr(BatchLoader, "patience", 3.0)
    started = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        batches(make_data(Dying(), num_workers=2))
    assert "file 11.png" in caught.value.where
    assert words in caught.value.found
    assert "num_workers=0" in caught.value.fix
    assert time.monotonic() - started < 60


class Closing(VectorSource):
    """Reading row 11 closes the socket that the tensors before it are fetched through."""

    def load(self, modality: str, row: int) -> NDArray[np.float64]:
        if row == 11:
            resource_sharer.stop()
            time.sleep(20)  # it lives on
        return super().load(modality, row)

    def describe(self, row: int) -> str:
        return f"file {row}.png"


def test_a_worker_whose_socket_is_gone_is_lost_though_it_seems_to_live() -> None:
    data = make_data(Closing(), num_workers=1)
    data.setup("fit")
    loader = data.train_dataloader()
    found = []

    def read() -> None:
        for batch in loader:
            found.append(batch)
            end = time.monotonic() + 30
            while loader.dataset.watch.item() != 11 and time.monotonic() < end:  # type: ignore[union-attr]
                time.sleep(0.05)

    with pytest.raises(WorkerError) as caught:
        read()
    assert "file 11.png" in caught.value.where
    assert isinstance(caught.value.__cause__.__cause__, OSError)  # type: ignore[union-attr]


def test_M20_fewer_samples_than_processes(tmp_path: Path) -> None:
    class Many:
        global_rank, world_size, default_root_dir = 0, 3, str(tmp_path)

    data = make_data(VectorSource(train=28, val=2))
    data.trainer = Many()  # type: ignore[assignment]
    data.setup("validate")
    with pytest.raises(ManifestError, match=r"split 'val'.*2 samples for 3 processes"):
        data.val_dataloader()


def test_M20_no_rows_left_after_filters() -> None:
    source = VectorSource(absent={"a": range(28, 41)})
    data = MultimodalDataModule(source, {"a": VectorProcessor(DIMS["a"])})
    with pytest.raises(ManifestError, match=r"split 'val'.*0 usable rows of 41"):
        data.setup("fit")


class Strict(VectorProcessor):
    """Fails as a user's own code may."""

    def prepare(self, raw: NDArray[np.float64], view: View | None = None) -> torch.Tensor:
        raise RuntimeError("a bug of mine")


def test_an_error_of_the_users_code_is_no_lost_worker() -> None:
    data = MultimodalDataModule(VectorSource(), {"a": Strict(DIMS["a"])}, num_workers=1)
    with pytest.raises(RuntimeError, match="a bug of mine"):
        batches(data)


def test_one_bad_sample_that_is_read_often_counts_once(tmp_path: Path) -> None:
    class BadValidation(Broken):
        bad = (301,)

    data = make_data(BadValidation(train=300, val=40), on_bad_sample="substitute")
    trainer = make_trainer(tmp_path, max_epochs=2, num_sanity_val_steps=2, val_check_interval=0.25)
    trainer.fit(make_module(), datamodule=data)
    assert len((tmp_path / "bad_samples.jsonl").read_text().splitlines()) > 2
