"""Trains with `BatchNormAdaptation` on two processes; run by `test_batch_norm_adaptation.py`."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from lightning_distill.callbacks import BatchNormAdaptation
from lightning_distill.data import CrossDomainDataModule
from tests.builders import VectorSource, make_data, make_trainer
from tests.module.parts import supervised

BATCHES = 2


class Elsewhere(VectorSource):
    """A domain whose vectors lie elsewhere and are wider spread; without labels."""

    def __init__(self, **options: Any) -> None:
        super().__init__(unlabelled=range(41), **options)
        self.vectors = {m: 3.0 * x + 2.0 for m, x in self.vectors.items()}


def data(**options: Any) -> CrossDomainDataModule:
    return CrossDomainDataModule(make_data(), make_data(Elsewhere(**options), batch_size=6))


def first_norm(student: Any, batches: list[Any], modality: str) -> tuple[Tensor, Tensor]:
    """Mean over batches of the mean and the unbiased variance of what the modality's norm reads."""
    encoder, seen = student.encoders[modality], list[Tensor]()
    for batch in batches:
        x = encoder.linear(batch["inputs"][modality][batch["in_target_domain"]])
        seen.append(torch.stack([x.mean(dim=0), x.var(dim=0, correction=1)]))
    mean, var = torch.stack(seen).mean(dim=0)
    return mean, var


class Report(Callback):
    """In each validation: the statistics there are, and those found by hand in this process's batches."""

    def __init__(self) -> None:
        self.found: list[dict[str, list[float]]] = []

    @torch.no_grad()
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        norm = pl_module.student.encoders["a"].norm
        batches = list(islice(trainer.datamodule.train_dataloader(), BATCHES))  # type: ignore[attr-defined]
        by_hand = first_norm(pl_module.student, batches, "a")
        there = {"mean": norm.running_mean, "var": norm.running_var}
        self.found.append(
            {k: x.tolist() for k, x in (there | dict(zip(("m", "v"), by_hand, strict=True))).items()}
        )


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    seed_everything(3, verbose=False)
    report = Report()
    callbacks = [BatchNormAdaptation(BATCHES), report]
    trainer = make_trainer(folder, devices=2, strategy="ddp_fork", max_epochs=2, callbacks=callbacks)
    module = supervised()
    module.on_fit_end = lambda: (  # type: ignore[method-assign]
        (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(report.found))
    )
    trainer.fit(module, data())
