"""Clip rules in ways of training that are easily forgotten."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from lightning_distill.callbacks import ClipGradients, GradualUnfreezing
from lightning_distill.clipping import (
    AdaGC,
    AutoClip,
    ClipRule,
    NormClip,
    PerPattern,
    SkipNonFinite,
    ValueClip,
)
from lightning_distill.module import DistillationModule
from lightning_distill.structures import Batch
from tests.builders import Notebook, make_data, make_model, make_trainer
from tests.module.clip_cases import Case, by_hand, in_lightning, make_batches, make_rule, make_student
from tests.module.parts import SGD, Steps, make_module, supervised
from tests.module.test_clip_rule import Broken

RATE, EPSILON = 0.1, 1e-3


class ByHand(DistillationModule):
    """Optimizes manually, which Lightning does not ask to clip."""

    def __init__(self, *args: Any, accumulate: int = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        self.automatic_optimization, self.accumulate = False, accumulate

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.manual_backward(super().training_step(batch, batch_idx) / self.accumulate)
        if (batch_idx + 1) % self.accumulate == 0:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("scale", [None, 4096.0])
def test_a_module_that_optimizes_manually_is_clipped_too(
    tmp_path: Path, scale: float | None, fused: bool
) -> None:
    steps, rule = Steps(), ValueClip(EPSILON)
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    plugins = [] if scale is None else [MixedPrecision("16-mixed", "cpu", scaler)]
    sgd = partial(torch.optim.SGD, lr=RATE, fused=fused)
    module = ByHand(make_model(("a",)), clip_rule=rule, optimizer=sgd)
    make_trainer(tmp_path, callbacks=[steps], plugins=plugins).fit(module, make_data())
    assert max(steps.sizes()) == pytest.approx(RATE * EPSILON, rel=1e-3)


def test_manual_accumulation_moves_history_once_a_step(tmp_path: Path) -> None:
    rule, notebook = AutoClip(), Notebook()
    module = ByHand(make_model(("a",)), clip_rule=rule, optimizer=SGD, accumulate=3)
    trainer = make_trainer(tmp_path, logger=notebook, log_every_n_steps=1)
    trainer.fit(module, make_data(batch_size=4))  # 7 batches: two steps, one batch left over
    assert int(rule.seen) == trainer.global_step == 2
    assert len(notebook.series("clip/coefficient")) == 2


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("name", ["ValueClip", "NormClip", "SkipNonFinite", "AdaGC"])
def test_fused_under_bf16(tmp_path: Path, name: str, automatic: bool) -> None:
    """Lightning's own clip raises here."""
    case = Case(name, "bf16-mixed", automatic, accumulate=2, fused=True)
    plain = Case(name, "bf16-mixed", True, accumulate=2)
    expected = by_hand(plain, make_rule(name))
    torch.testing.assert_close(in_lightning(case, tmp_path), expected, rtol=0, atol=1e-6)


class Noted(Callback):
    """What a rule knows after each batch."""

    def __init__(self, rule: AdaGC) -> None:
        self.rule, self.seen = rule, []

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen.append((self.rule._names, self.rule.gamma.clone()))


def test_what_is_unfrozen_late_gets_a_history_of_its_own(tmp_path: Path) -> None:
    """And what is frozen has none; that of the others stays in its place."""
    rule = AdaGC(warmup=2)
    noted = Noted(rule)
    late = GradualUnfreezing({2: ["encoders.a"]})
    trainer = make_trainer(tmp_path, callbacks=[late, noted], max_epochs=3)
    trainer.fit(supervised(clip_rule=rule, optimizer=SGD), make_data(batch_size=14))
    names = [names for names, _ in noted.seen]
    assert not any(name.startswith("encoders.a.") for name in names[3])
    assert names[4][: len(names[3])] == names[3]
    assert names[4] != names[3]
    assert {name for name in names[4] if name not in names[3]} == {
        name for name in names[4] if name.startswith("encoders.a.")
    }
    assert (noted.seen[4][1] > 0).all()


def groups(parameters: Any, split: int) -> torch.optim.Optimizer:
    found = list(parameters)
    return torch.optim.SGD([{"params": found[:split]}, {"params": found[split:], "lr": 2 * RATE}], lr=RATE)


class Moved(Callback):
    """How far each parameter has gone in the last batch."""

    def on_train_batch_start(self, trainer: Trainer, module: Any, *args: Any) -> None:
        self.before = {n: p.detach().clone() for n, p in module.student.named_parameters()}

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        now = dict(module.student.named_parameters())
        self.by = {n: (now[n] - old).detach() for n, old in self.before.items()}


def edited(rule: ClipRule, split: int, folder: Path) -> dict[str, torch.Tensor]:
    """Gradients one step was taken with, where parameters from `split` on have twice the rate."""
    moved = Moved()
    module = supervised(student=make_student(), clip_rule=rule, optimizer=partial(groups, split=split))
    data = DataLoader(make_batches(1, 1)[0], batch_size=None)
    make_trainer(folder, callbacks=[moved], limit_train_batches=1).fit(module, data)
    rates = [RATE if place < split else 2 * RATE for place in range(len(moved.by))]
    return {n: by / rate for (n, by), rate in zip(moved.by.items(), rates, strict=True)}


@pytest.mark.parametrize("split", [1, 4])
def test_groups_of_parameters_are_told_apart_by_name_only(tmp_path: Path, split: int) -> None:
    rule = PerPattern({"head.*": ValueClip(1e-4)}, rest=ValueClip(1e-3))
    for name, grad in edited(rule, split, tmp_path).items():
        bound = 1e-4 if name.startswith("head.") else 1e-3
        assert float(grad.abs().max()) == pytest.approx(bound, rel=1e-2)


@pytest.mark.parametrize("split", [1, 4])
def test_all_groups_of_parameters_have_one_norm(tmp_path: Path, split: int) -> None:
    found = edited(NormClip(1e-3), split, tmp_path)
    assert float(torch.cat([g.flatten() for g in found.values()]).norm()) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("inner", [ValueClip(0.1), AutoClip()])
def test_one_bad_batch_of_several_leaves_the_whole_step_out(tmp_path: Path, inner: ClipRule) -> None:
    """The batches after it start a step of their own, from nothing."""
    steps, rule = Steps(), SkipNonFinite(inner)
    module = make_module(losses={"kd": Broken(at=1)}, optimizer=SGD, clip_rule=rule)
    trainer = make_trainer(tmp_path, callbacks=[steps], accumulate_grad_batches=2)
    with pytest.warns(UserWarning, match="step 0 is skipped"):
        trainer.fit(module, make_data(batch_size=4))  # 7 batches: 2 + 2 + 2 + 1
    assert [size > 0 for size in steps.sizes()] == [False, False, False, True, False, True, True]
    assert steps.weights[-1].isfinite().all()
    if isinstance(inner, AutoClip):
        assert int(inner.seen) == 3


def test_lbfgs_under_the_callback(tmp_path: Path) -> None:
    rule, module = AutoClip(), supervised(optimizer=partial(torch.optim.LBFGS, lr=0.1, max_iter=4))
    trainer = make_trainer(tmp_path, callbacks=[ClipGradients(rule)])
    trainer.fit(module, make_data(batch_size=14))
    assert int(rule.seen) == trainer.global_step == 2
