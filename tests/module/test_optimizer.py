"""Which parameters are stepped, and when the learning rate changes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lightning_distill.losses import LogitKD
from tests.builders import make_data, make_model, make_trainer
from tests.module.parts import SGD, Follow, make_module, supervised

HALVE = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)


class Rates(Callback):
    """Notes the learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: object, optimizer: torch.optim.Optimizer
    ) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("interval", "expected"), [("epoch", [0.1, 0.1, 0.05, 0.05]), ("step", [0.1, 0.05, 0.025, 0.0125])]
)
def test_scheduler_steps_once_an_epoch_or_a_step(
    tmp_path: Path, interval: str, expected: list[float]
) -> None:
    rates = Rates()
    module = supervised(optimizer=SGD, lr_scheduler=HALVE, scheduler_interval=interval)
    make_trainer(tmp_path, max_epochs=2, callbacks=[rates]).fit(module, make_data(batch_size=14))
    assert rates.seen == pytest.approx(expected)


def test_adaptors_of_a_term_are_trained(tmp_path: Path) -> None:
    module = make_module(losses={"kd": LogitKD(), "hint": Follow()})
    before = module.terms.losses["hint"].project.weight.detach().clone()
    make_trainer(tmp_path).fit(module, make_data())
    assert not torch.equal(module.terms.losses["hint"].project.weight, before)


def test_frozen_parts_of_the_student_stay(tmp_path: Path) -> None:
    student = make_model()
    student.encoders["a"].linear.requires_grad_(False)
    before = student.encoders["a"].linear.weight.clone()
    module = supervised(student=student)
    trainer = make_trainer(tmp_path)
    trainer.fit(module, make_data())
    assert torch.equal(student.encoders["a"].linear.weight, before)
    stepped = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert all(p.requires_grad for p in stepped)
