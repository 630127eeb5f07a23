"""What is configured wins over what a checkpoint remembers; what is not changed stays exact."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from lightning_distill.callbacks import ConfiguredHyperparameters
from lightning_distill.module import DistillationModule
from tests.builders import Notebook, make_data, make_model, make_trainer, weights_of


def fit(
    folder: Path,
    epochs: int,
    resume: bool = False,
    with_callback: bool = True,
    patience: int = 99,
    **options: Any,
) -> tuple[DistillationModule, Any, list[float]]:
    """Train; return the module, its optimizer and the learning rates it was trained with."""
    torch.manual_seed(0)
    module, book = DistillationModule(make_model(), **options), Notebook()
    callbacks: list[Any] = [
        LearningRateMonitor("step"),
        EarlyStopping("val/loss", patience=patience, min_delta=9.0),
    ]
    if with_callback:
        callbacks.append(ConfiguredHyperparameters())
    trainer = make_trainer(folder, max_epochs=epochs, callbacks=callbacks, logger=book)
    path = str(folder / "c.ckpt")
    trainer.fit(module, datamodule=make_data(), ckpt_path=path if resume else None)
    trainer.save_checkpoint(path)
    name = next(key for _, row in book.rows for key in row if key.startswith("lr-"))
    return module, trainer.optimizers[0], book.series(name)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": partial(AdamW, lr=0.01)},
        {
            "optimizer": partial(SGD, lr=0.1, momentum=0.9),
            "lr_scheduler": partial(CosineAnnealingLR, T_max=5),
        },
        {
            "optimizer": partial(AdamW, lr=0.01),
            "lr_scheduler": partial(OneCycleLR, max_lr=0.02, total_steps=99),
            "scheduler_interval": "step",
        },
    ],
    ids=["constant", "cosine", "one cycle"],
)
def test_an_unchanged_resume_is_exact(tmp_path: Path, options: dict[str, Any]) -> None:
    whole, _, rates = fit(tmp_path, 4, **options)
    _, _, first = fit(tmp_path, 2, **options)
    parts, _, second = fit(tmp_path, 4, resume=True, **options)
    assert first + second == rates
    assert all(torch.equal(weights_of(parts)[name], tensor) for name, tensor in weights_of(whole).items())


def test_a_changed_rate_follows_the_same_schedule(tmp_path: Path) -> None:
    cosine = partial(CosineAnnealingLR, T_max=5)
    _, _, rates = fit(tmp_path, 4, optimizer=partial(SGD, lr=0.1), lr_scheduler=cosine)
    fit(tmp_path, 2, optimizer=partial(SGD, lr=0.1), lr_scheduler=cosine)
    _, _, changed = fit(tmp_path, 4, resume=True, optimizer=partial(SGD, lr=0.05), lr_scheduler=cosine)
    assert changed == pytest.approx([rate / 2 for rate in rates[len(rates) // 2 :]])


def test_a_changed_peak_of_a_cycle_counts(tmp_path: Path) -> None:
    def cycle(peak: float) -> dict[str, Any]:
        schedule = partial(OneCycleLR, max_lr=peak, total_steps=40, pct_start=0.1)
        return {"optimizer": partial(AdamW), "lr_scheduler": schedule, "scheduler_interval": "step"}

    _, _, rates = fit(tmp_path, 4, **cycle(0.02))
    fit(tmp_path, 2, **cycle(0.02))
    _, _, changed = fit(tmp_path, 4, resume=True, **cycle(0.002))
    # The step of the resume itself is scaled; the following ones are the schedule's.
    assert changed == pytest.approx([rate / 10 for rate in rates[len(rates) // 2 :]], rel=1e-3)


def test_momentum_and_decay_count_too(tmp_path: Path) -> None:
    fit(tmp_path, 1, optimizer=partial(SGD, lr=0.1, momentum=0.9))
    changed = partial(SGD, lr=0.1, momentum=0.5, weight_decay=0.2)
    _, optimizer, _ = fit(tmp_path, 2, resume=True, optimizer=changed)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.5, 0.2)
    assert optimizer.state  # the momentum buffers themselves were restored


def test_a_new_rate_beats_a_checkpoint_made_without_the_callback(tmp_path: Path) -> None:
    fit(tmp_path, 1, with_callback=False, optimizer=partial(SGD, lr=0.1))
    _, optimizer, _ = fit(tmp_path, 2, resume=True, optimizer=partial(SGD, lr=0.3))
    assert optimizer.param_groups[0]["lr"] == 0.3


@pytest.mark.parametrize("rate", [0.1, 0.05])
def test_so_it_does_under_a_schedule(tmp_path: Path, rate: float) -> None:
    cosine = partial(CosineAnnealingLR, T_max=5)
    _, _, rates = fit(tmp_path, 4, optimizer=partial(SGD, lr=0.1), lr_scheduler=cosine)
    fit(tmp_path, 2, with_callback=False, optimizer=partial(SGD, lr=0.1), lr_scheduler=cosine)
    _, _, changed = fit(tmp_path, 4, resume=True, optimizer=partial(SGD, lr=rate), lr_scheduler=cosine)
    assert changed == pytest.approx([r * rate / 0.1 for r in rates[len(rates) // 2 :]])


def test_patience_counts(tmp_path: Path) -> None:
    still = {"optimizer": partial(SGD, lr=1e-9)}
    _, _, first = fit(tmp_path, 20, patience=2, **still)
    _, _, second = fit(tmp_path, 20, patience=4, resume=True, **still)
    epochs = len(make_data().train_dataloader())
    assert len(first) // epochs == 3
    assert len(second) // epochs == 2
