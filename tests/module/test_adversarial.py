"""Adversarial terms in real training: who clips what, which step's factor, resume."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_distill.clipping import ClipRule, PerPattern, ValueClip
from lightning_distill.data import CrossDomainDataModule
from lightning_distill.losses import AdversarialLoss, ConditionalAdversarial, DomainAdversarial
from lightning_distill.module import DistillationModule
from lightning_distill.schedules import SigmoidRamp
from tests.builders import VectorSource, make_data, make_model, make_trainer, same_bits, weights_of
from tests.module.parts import ADAM

PLAIN = partial(torch.optim.SGD, lr=1.0)


class Shifted(VectorSource):
    """A domain whose vectors lie elsewhere, without labels."""

    def __init__(self) -> None:
        super().__init__(unlabelled=range(41))
        self.vectors = {m: x + 2.0 for m, x in self.vectors.items()}


def data() -> CrossDomainDataModule:
    return CrossDomainDataModule(make_data(), make_data(Shifted(), batch_size=6))


def build(term: AdversarialLoss, **options: Any) -> DistillationModule:
    seed_everything(3, verbose=False)
    return DistillationModule(
        **({"student": make_model(), "losses": {"dann": term}, "optimizer": ADAM} | options)
    )


def term_of(module: DistillationModule) -> AdversarialLoss:
    found = module.terms.losses["dann"]
    assert isinstance(found, AdversarialLoss)
    return found


def one_step(tmp_path: Path, rule: ClipRule | None, factor: float = 1.0) -> dict[str, float]:
    """Part -> largest change of an entry in one plain step, as a clip rule names it."""
    module = build(
        DomainAdversarial(hidden=(8,), factor=factor), clip_rule=rule, optimizer=PLAIN, weights={"task": 0.0}
    )
    data_module = data()
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0, callbacks=[before := Before()])
    trainer.fit(module, data_module)
    after = dict(module.named_parameters())
    found: dict[str, float] = {}
    for name, value in before.weights.items():
        part = "terms" if name.startswith("terms.") else name.removeprefix("student.").partition(".")[0]
        found[part] = max(found.get(part, 0.0), (after[name] - value).abs().max().item())
    return found


class Before(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.weights = {n: p.detach().clone() for n, p in pl_module.named_parameters()}


def test_discriminator_and_encoders_have_ranges_of_their_own(tmp_path: Path) -> None:
    rules: dict[str, ClipRule] = {"terms.losses.dann.*": ValueClip(1e-2), "encoders.*": ValueClip(1e-4)}
    moved = one_step(tmp_path, PerPattern(rules))
    assert moved["terms"] == pytest.approx(1e-2, rel=1e-3)
    assert moved["encoders"] == pytest.approx(1e-4, rel=1e-2)
    free = one_step(tmp_path, None)
    assert free["terms"] > 1e-2
    assert free["encoders"] > 1e-4


def test_one_range_clips_both_alike_and_the_factor_is_lost(tmp_path: Path) -> None:
    """The trap: where all is cut to one epsilon, a factor a hundred times as large changes nothing."""
    weak, strong = (one_step(tmp_path, ValueClip(1e-4), factor) for factor in (1.0, 100.0))
    assert weak["terms"] == pytest.approx(weak["encoders"], rel=1e-2)
    assert strong["encoders"] == pytest.approx(weak["encoders"], rel=1e-2)
    free = [one_step(tmp_path, None, factor)["encoders"] for factor in (1.0, 100.0)]
    assert free[1] == pytest.approx(100 * free[0], rel=1e-2)


@pytest.mark.parametrize("cls", [DomainAdversarial, ConditionalAdversarial])
def test_discriminator_is_trained_saved_and_named(cls: Any, tmp_path: Path) -> None:
    module = build(cls(hidden=(8,), factor=1.0))
    trainer = make_trainer(tmp_path)
    trainer.fit(module, data())
    stepped = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    named = dict(module.named_parameters())
    own = [n for n in named if n.startswith("terms.losses.dann.discriminator.")]
    assert len(own) == 4
    assert all(id(named[name]) in stepped for name in own)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    saved = torch.load(tmp_path / "c.ckpt", weights_only=True)["state_dict"]
    assert all(same_bits(saved[name], named[name].detach()) for name in own)
    twin = build(cls(hidden=(8,), factor=1.0))
    twin.load_state_dict(saved, strict=True)


class Factors(Callback):
    """Notes the factor each batch was trained with, and the optimizer step it belongs to."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.seen.append((self.step, term_of(pl_module).factor_now))


def test_factor_counts_optimizer_steps(tmp_path: Path) -> None:
    """Five batches an epoch in steps of three: the second step of an epoch has two."""
    ramp, factors = SigmoidRamp(steps=4), Factors()
    module = build(DomainAdversarial(hidden=(8,), factor=ramp))
    trainer = make_trainer(tmp_path, max_epochs=2, accumulate_grad_batches=3, callbacks=[factors])
    trainer.fit(module, data())
    steps = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert factors.seen == [(step, ramp(step, 0)) for step in steps]
    assert [round(ramp(step, 0), 2) for step in (0, 1)] == [0.0, 0.85]


def test_resume_is_exact(tmp_path: Path) -> None:
    def run(epochs: int, resume: Path | None = None) -> DistillationModule:
        term = ConditionalAdversarial(
            hidden=(8,), dropout=0.2, factor=SigmoidRamp(steps=10), entropy_weighted=True
        )
        module = build(term)
        trainer = make_trainer(tmp_path, max_epochs=epochs)
        trainer.fit(module, data(), ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(tmp_path / "c.ckpt")
        return module

    whole = weights_of(run(3))
    run(1)
    resumed = run(3, tmp_path / "c.ckpt")
    assert all(same_bits(x, whole[name]) for name, x in weights_of(resumed).items())
    assert term_of(resumed).factor_now == SigmoidRamp(steps=10)(14, 0)


def test_evaluation_shows_the_discriminators_loss(tmp_path: Path) -> None:
    module = build(DomainAdversarial(hidden=(8,)))
    trainer = make_trainer(tmp_path)
    trainer.fit(module, data())
    assert 0 < trainer.callback_metrics["val/dann"] < 3
