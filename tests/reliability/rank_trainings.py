"""Trainings that two processes do together and one does alone; used by `test_ranks.py`."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from lightning_distill.callbacks import RankWatch
from lightning_distill.data import StreamSample, StreamSource
from lightning_distill.errors import DistillError, RankError
from lightning_distill.module import DistillationModule
from tests.builders import VectorSource, make_data, make_trainer
from tests.module.parts import make_module
from tests.scale.two_ranks import make_plain

Found = dict[str, Any]


class Notes(Callback):
    """What a process trained and validated on, and the gradient of its first step."""

    def __init__(self) -> None:
        self.trained: list[list[int]] = []
        self.validated: list[list[int]] = []
        self.gradient: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.trained.append(batch["sample_id"].tolist())

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.validated.append(batch["sample_id"].tolist())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if not self.gradient:
            grads = [p.grad.double().flatten() for p in pl_module.student.parameters()]
            self.gradient = torch.cat(grads).tolist()


class VectorStream(StreamSource):
    """A `VectorSource` of which nobody knows the length."""

    modalities, splits, classes = ("a", "b"), ("train", "val"), VectorSource().classes

    def __init__(self, source: VectorSource) -> None:
        self.source = source

    def stream(self, split: str, epoch: int) -> Iterator[StreamSample]:
        table = self.source.samples
        for row in table.rows_of(split).tolist():
            raw = dict.fromkeys(self.modalities, row)
            yield StreamSample(raw, table.target[row], int(table.sample_id[row]), f"row {row}")

    def load(self, sample: StreamSample, modality: str) -> Any:
        return self.source.load(modality, sample.raw[modality])


def ranked(**options: Any) -> dict[str, Any]:
    """Options of a Trainer for two processes."""
    return {"devices": 2, "strategy": "ddp"} | options


def size(n: int, folder: Path, stream: bool = False, **options: Any) -> Found:
    """Train and validate on n samples each, two a batch; the metrics are those of the first weights."""
    seed_everything(3, verbose=False)
    source = VectorSource(train=n, val=n)
    data = make_data(VectorStream(source) if stream else source, batch_size=2)
    notes, module = Notes(), DistillationModule(make_plain("a", "b"))  # a batch may be of one
    told: Found = {}
    try:
        (metrics,) = make_trainer(folder, callbacks=[notes], **options).validate(module, data, verbose=False)
        trainer = make_trainer(folder, limit_val_batches=0, callbacks=[notes], **options)
        trainer.fit(module, data)
        told = {"steps": trainer.global_step, "metrics": metrics}
    except DistillError as error:
        told = {"error": str(error)}
    return told | {"trained": notes.trained, "validated": notes.validated}


def steps(count: int, precision: str, batch_size: int, folder: Path, **options: Any) -> Found:
    """Plain steps whose gradient on a batch is the mean of those on its halves."""
    seed_everything(3, verbose=False)
    notes, sgd = Notes(), partial(torch.optim.SGD, lr=0.1, momentum=0.5)
    module = DistillationModule(make_plain("a", "b"), optimizer=sgd)
    options |= {"max_epochs": -1, "max_steps": count, "precision": precision, "limit_val_batches": 0}
    make_trainer(folder, callbacks=[notes], **options).fit(
        module, make_data(VectorSource(32, 2), batch_size=batch_size)
    )
    weights: list[Tensor] = [p.detach().double().flatten() for p in module.student.parameters()]
    return {"gradient": notes.gradient, "weights": torch.cat(weights).tolist(), "trained": notes.trained}


def together(rank: int, folder: Path, count: int) -> None:
    """All of them, on two processes."""
    found: Found = {f"size {n}": size(n, folder, **ranked()) for n in range(1, 18)}
    found["a stream of 1"] = size(1, folder, stream=True, **ranked())
    found["a stream of 7"] = size(7, folder, stream=True, **ranked())
    for precision in ("32-true", "64-true"):
        found[precision] = steps(count, precision, 8, folder, **ranked())
    found["left behind"] = differing(rank, folder)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


def differing(rank: int, folder: Path) -> Found:
    """What is said when the processes do not see the same, and what a watch leaves behind."""

    def said(source: VectorSource, config: str = "", other_code: bool = False) -> str:
        watch = RankWatch({"config": config})
        if other_code:  # as if another version were installed here
            watch.package = folder / "package"
        try:
            make_trainer(folder, callbacks=[watch], **ranked()).fit(make_module(), make_data(source))
        except RankError as error:
            return str(error)
        return ""

    found: Found = {"nothing": said(VectorSource())}
    time.sleep(1)
    before = open_now()
    found["config"] = said(VectorSource(), f"model: a\nbatch_size: {8 - 4 * rank}\n")
    found["data"] = said(VectorSource(val=13 + rank))
    found["code"] = said(VectorSource(), other_code=rank == 1)
    found["batches"] = said(Longer(rank))
    found["nothing again"] = said(VectorSource())
    until = time.monotonic() + 3  # the store's end of a connection is closed a moment later
    while open_now() > before and time.monotonic() < until:
        time.sleep(0.1)
    return found | {"before": before, "after": open_now()}


def open_now() -> tuple[int, int]:
    """Files that are open, and threads."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


class Longer(VectorSource):
    """Says that it is the same on all processes, and is longer on one."""

    fingerprint = "the same"

    def __init__(self, rank: int) -> None:
        super().__init__(train=28 + 20 * rank)


class Stuck(TorchCheckpointIO):
    """A disk that does not answer."""

    def save_checkpoint(self, *args: Any, **options: Any) -> None:
        time.sleep(600)


def slow_disk(folder: Path) -> None:
    """The first process writes for ever, the other one waits for it, but not longer than it may."""
    from datetime import timedelta

    watch = RankWatch({})
    options = {"devices": 2, "strategy": DDPStrategy(timeout=timedelta(seconds=6)), "plugins": [Stuck()]}
    keep = ModelCheckpoint(folder / "kept")
    trainer = make_trainer(folder, callbacks=[watch, keep], enable_checkpointing=True, **options)
    try:
        trainer.fit(make_module(), make_data())
    except Exception as error:
        found = watch.failure()
        print(f"error: {found or error}", flush=True)
        raise SystemExit(1 if found is None else found.exit_code) from None
