"""Streams as batches: for any number of workers and ranks, resumed, shuffled, and what they refuse."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_distill.data import (
    ClassBalanced,
    MultimodalDataModule,
    Shuffle,
    StreamDataset,
    StreamSample,
    StreamSource,
)
from lightning_distill.data.reading import Reading
from lightning_distill.data.stream_dataset import StreamEnd, StreamKey, StreamSampler, shuffled
from lightning_distill.errors import ConfigError, ManifestError, SampleError, WorkerError
from lightning_distill.structures import Batch
from tests.builders import (
    CLASSES,
    DIMS,
    VectorProcessor,
    VectorSource,
    make_data,
    make_trainer,
    same_bits,
    weights_of,
)
from tests.data.media import assert_same, batches
from tests.module.parts import make_module


class VectorStream(StreamSource):
    """The samples of a `VectorSource`, one after the other.

    Args:
        bad: Row that cannot be read.
        source: The samples.
        fatal: Whether reading the bad row ends the process.
    """

    classes, modalities, splits, buffer = CLASSES, tuple(DIMS), ("train", "val"), 9

    def __init__(self, source: VectorSource | None = None, bad: int = -1, fatal: bool = False) -> None:
        self.source, self.bad, self.fatal = source or VectorSource(), bad, fatal
        self.loads = 0

    def stream(self, split: str, epoch: int) -> Iterator[StreamSample]:
        table = self.source.samples
        for row in table.rows_of(split).tolist():
            raw = {m: row for m in DIMS if table.present[m][row]}
            yield StreamSample(raw, table.target[row], int(table.sample_id[row]), f"row {row}")

    def load(self, sample: StreamSample, modality: str) -> Any:
        self.loads += 1
        row = sample.raw[modality]
        if row == self.bad:
            if self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise SampleError(where=sample.place, found="damage", expected="none", fix="repair it")
        return self.source.load(modality, row)


def ids(found: list[Batch]) -> list[int]:
    return [int(i) for batch in found for i in batch["sample_id"]]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "val"])
def test_any_number_of_workers_gives_the_same_batches(split: str, workers: int) -> None:
    source = VectorSource(absent={"a": [3, 30]}, unlabelled=[4])
    alone = batches(make_data(VectorStream(source)), split)
    assert_same(alone, batches(make_data(VectorStream(source), num_workers=workers), split))


def test_batches_are_those_of_an_indexed_source() -> None:
    """But for the order: in evaluation the same ones, in training the same samples in the same views."""
    source = VectorSource(absent={"a": [3, 30]}, unlabelled=[4])
    assert_same(batches(make_data(VectorStream(source)), "val"), batches(make_data(source), "val"))
    ours, theirs = batches(make_data(VectorStream(source)), epochs=1), batches(make_data(source), epochs=1)
    assert len(ours) == 3  # of 28 samples the last four do not fill a batch
    views = _by_id(theirs)
    for name, view in _by_id(ours).items():
        assert same_bits(view, views[name])


def _by_id(found: list[Batch]) -> dict[int, Tensor]:
    return {int(i): x for b in found for i, x in zip(b["sample_id"], b["inputs"]["b"], strict=True)}  # type: ignore[arg-type]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    orders = []
    for seed in (3, 3, 4):
        seed_everything(seed, verbose=False)
        found = batches(make_data(VectorStream()))
        orders += [ids(found[:3]), ids(found[3:])]
    assert orders[:2] == orders[2:4]
    assert len({tuple(order) for order in orders}) == 4
    assert all(len(set(order)) == 24 for order in orders)


def test_an_epoch_asked_for_again_is_the_same() -> None:
    data = StreamDataset(VectorStream(), Reading({"a": VectorProcessor(DIMS["a"])}))
    keys = [
        StreamKey(epoch, n, 8 * n, 8 * n + 8, 8 * n + 8)
        for epoch, n in ((0, 1), (1, 0), (0, 1), (0, 0), (0, 1))
    ]
    found = [data[key] for key in keys]
    assert_same([found[0], found[0]], [found[2], found[4]])  # type: ignore[list-item]
    assert isinstance(data[StreamKey(0, 3, 24, 32, 32)], StreamEnd)


@pytest.mark.row("D2")
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 3), st.integers(1, 70))
def test_every_rank_has_its_part(size: int, batch_size: int, world: int, buffer: int) -> None:
    stream = VectorStream(VectorSource(size, size))
    stream.buffer = buffer

    def parts(split: str) -> list[list[list[int]]]:
        found = []
        for rank in range(world):
            data = StreamDataset(stream, Reading({"a": VectorProcessor(DIMS["a"])}, split=split))
            part: list[list[int]] = []
            for key in StreamSampler(batch_size, split == "train", rank, world):
                batch = data[key]
                if isinstance(batch, StreamEnd):
                    break
                part.append(batch["sample_id"].tolist())  # type: ignore[index]
            found.append(part)
        return found

    def everything(found: list[list[list[int]]]) -> list[int]:
        return [i for part in found for batch in part for i in batch]

    assert sorted(everything(parts("val"))) == list(range(5000 + size, 5000 + 2 * size))
    train = parts("train")
    assert {len(part) for part in train} == {size // (batch_size * world)}
    assert all(len(batch) == batch_size for part in train for batch in part)
    assert len(set(everything(train))) == len(everything(train))


@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 5))
def test_shuffling_loses_nothing(size: int, buffer: int, seed: int) -> None:
    samples = [StreamSample({}, np.int64(0), at, "") for at in range(size)]
    order = [s.sample_id for s in shuffled(samples, buffer, np.random.default_rng(seed))]
    assert sorted(order) == list(range(size))
    assert all(at - place < buffer for place, at in enumerate(order))


def test_samples_without_a_modality_of_the_students_are_passed_over() -> None:
    source = VectorSource(absent={"a": list(range(28, 33))})
    ours, theirs = {"a": VectorProcessor(DIMS["a"])}, {"b": VectorProcessor(DIMS["b"])}
    for options in ({}, {"teacher_processors": theirs}):
        module = MultimodalDataModule(VectorStream(source), ours, batch_size=8, **options)  # type: ignore[arg-type]
        found = batches(module, "val", epochs=1)
        assert ids(found) == list(range(5033, 5041))
        assert ("teacher_inputs" in found[0]) == bool(options)


def test_a_worker_reads_only_its_own_batches() -> None:
    stream = VectorStream(VectorSource(800, 1))
    data = StreamDataset(stream, Reading({"a": VectorProcessor(DIMS["a"])}))
    for key in [StreamKey(0, n, 8 * n, 8 * n + 8, 8 * n + 8) for n in range(0, 100, 4)]:
        data[key]
    assert stream.loads == 25 * 8


# -- training -------------------------------------------------------------------------------------------


class KilledError(Exception):
    """The crash."""


class Kill(Callback):
    """Stops training when a step begins."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise KilledError


def train(folder: Path, workers: int = 0, resume: Path | None = None, **options: Any) -> dict[str, Tensor]:
    seed_everything(11, verbose=False)
    module = make_module()
    trainer = make_trainer(folder, **({"max_epochs": 3} | options))
    trainer.fit(module, make_data(VectorStream(), num_workers=workers), ckpt_path=resume, weights_only=True)
    assert trainer.global_step == 9
    assert trainer.current_epoch == 3
    return weights_of(module)


def test_workers_do_not_change_the_weights(tmp_path: Path) -> None:
    one, other = train(tmp_path), train(tmp_path, workers=2)
    assert all(same_bits(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("saved", "killed"), [(3, 4), (4, 4), (4, 5), (5, 8)])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, saved: int, killed: int) -> None:
    whole = train(tmp_path)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=saved, save_top_k=-1)
    with pytest.raises(KilledError):
        train(tmp_path, callbacks=[keep, Kill(killed)], enable_checkpointing=True)
    resumed = train(tmp_path, resume=tmp_path / f"step={saved}.ckpt")
    assert [name for name in whole if not same_bits(resumed[name], whole[name])] == []


@pytest.mark.parametrize("validates", [True, False])
def test_a_run_resumes_from_the_checkpoint_of_an_epoch(tmp_path: Path, validates: bool) -> None:
    run: dict[str, Any] = {} if validates else {"limit_val_batches": 0}
    whole = train(tmp_path, **run)
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    train(tmp_path, callbacks=[keep], enable_checkpointing=True, **run)
    for epoch in (0, 1):
        resumed = train(tmp_path, resume=tmp_path / f"epoch={epoch}.ckpt", **run)
        assert [name for name in whole if not same_bits(resumed[name], whole[name])] == []


def test_every_sample_is_validated_once(tmp_path: Path) -> None:
    metrics = []
    for source in (VectorStream(), VectorSource()):
        seed_everything(1, verbose=False)
        metrics.append(make_trainer(tmp_path).validate(make_module(), make_data(source), verbose=False))  # type: ignore[arg-type]
    assert metrics[0] == metrics[1]


def test_every_sample_is_predicted_once(tmp_path: Path) -> None:
    stream = VectorStream()
    stream.splits = ("test",)
    data = make_data(stream, num_workers=2)

    class Ids(LightningModule):
        def predict_step(self, batch: Batch) -> list[int]:
            return batch["sample_id"].tolist()

    stream.source._table = replace(stream.source.samples, split=np.full(41, 2, np.int8))
    found = make_trainer(tmp_path).predict(Ids(), data)
    assert [i for part in found for i in part] == list(range(5000, 5041))  # type: ignore[union-attr]


# -- faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_says_when_and_where(workers: int) -> None:
    with pytest.raises(SampleError, match=r"row 33: found damage \(epoch 0, batch 0, read by (the|worker)"):
        batches(make_data(VectorStream(bad=33), num_workers=workers), "val")


def test_a_sample_its_processor_cannot_prepare_is_named() -> None:
    class Strict(VectorProcessor):
        def prepare(self, raw: Any, view: Any = None) -> Tensor:
            raise ValueError("too odd")

    module = MultimodalDataModule(VectorStream(), {"a": Strict(DIMS["a"])})
    with pytest.raises(SampleError, match="row 28, a: found too odd"):
        batches(module, "val")


def test_a_worker_that_dies_is_told_with_what_it_read() -> None:
    with pytest.raises(WorkerError, match="worker 0: sample 5 of the stream"):
        batches(make_data(VectorStream(bad=33, fatal=True), num_workers=1), "val")


def test_a_death_whose_signal_is_lost_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_distill.data.loader._LOOK", 0.5)
    # As if it had gone to another thread: nothing interrupts the wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    begun = time.monotonic()
    try:
        with pytest.raises(WorkerError, match="worker 0: sample 5 of the stream"):
            batches(make_data(VectorStream(bad=33, fatal=True), num_workers=1), "val")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"in_memory": True}, "in_memory"),
        ({"sampling": ClassBalanced()}, "sampling"),
        ({"sampling": Shuffle(labelled_per_batch=2)}, "sampling"),
        ({"on_bad_sample": "substitute"}, "on_bad_sample"),
    ],
)
def test_settings_that_need_an_index(options: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError, match=f"MultimodalDataModule.{setting}: .*with a stream"):
        make_data(VectorStream(), **options)  # type: ignore[arg-type]


def test_what_is_not_there() -> None:
    module = make_data(VectorStream())  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match="split 'test': found a stream of train, val"):
        module.setup("test")
    with pytest.raises(ConfigError, match="VectorStream, a stream"):
        module.rows("train")
    assert module.report() == ["train: a stream", "val: a stream"]
