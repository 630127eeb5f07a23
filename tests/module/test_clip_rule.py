"""The clip rule acts, once an optimizer step, and is not silently ignored."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor

from lightning_distill.clipper import refuse_to_be_ignored
from lightning_distill.clipping import (
    AutoClip,
    ClipRule,
    PerPattern,
    PropagateNonFinite,
    RaiseNonFinite,
    SkipNonFinite,
    ValueClip,
)
from lightning_distill.errors import ConfigError, NonFiniteError
from lightning_distill.losses import LogitKD
from lightning_distill.module import DistillationModule
from lightning_distill.schedules import Schedule
from lightning_distill.structures import Batch, ModelOutput
from tests.builders import Notebook, make_data, make_model, make_trainer
from tests.module.parts import SGD, Late, Spy, Steps, make_module, supervised


@pytest.mark.parametrize("accumulate", [1, 3])
def test_clip_rule_bounds_every_step(tmp_path: Path, accumulate: int) -> None:
    """SGD moves no weight by more than eta * eps; without the rule it would."""
    eta, epsilon, free, clipped = 0.1, 1e-3, Steps(), Steps()
    for steps, rule in ((free, None), (clipped, ValueClip(epsilon))):
        torch.manual_seed(3)
        module = make_module(optimizer=partial(torch.optim.SGD, lr=eta), clip_rule=rule)
        make_trainer(tmp_path, callbacks=[steps], accumulate_grad_batches=accumulate).fit(module, make_data())
    assert max(free.sizes()) > 2 * eta * epsilon
    assert max(clipped.sizes()) == pytest.approx(eta * epsilon, rel=1e-3)


def test_clip_rule_acts_once_an_optimizer_step(tmp_path: Path) -> None:
    spy = Spy()
    trainer = make_trainer(tmp_path, accumulate_grad_batches=3, max_epochs=2)
    trainer.fit(make_module(clip_rule=spy), make_data(batch_size=4))  # 7 batches an epoch: 3 + 3 + 1
    assert trainer.global_step == 6
    assert len(spy.calls) == 6


@pytest.mark.row("G5")
def test_clip_rule_sees_the_whole_accumulated_gradient(tmp_path: Path) -> None:
    """theta moves by eta * clip(mean of the gradients), not by the mean of clipped gradients."""
    epsilon, steps = 2e-2, Steps()
    student = make_model(("a",))
    student.encoders["a"].dropout.p = 0.0
    twin = copy.deepcopy(student)
    module = supervised(student=student, optimizer=SGD, clip_rule=ValueClip(epsilon))
    data = make_data(batch_size=14)
    data.setup("fit")
    grads = []
    for batch in data.train_dataloader():
        twin.zero_grad()
        module.task.loss(twin(batch).logits, batch["target"]).backward()
        grads.append(torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]))
    make_trainer(tmp_path, accumulate_grad_batches=2, callbacks=[steps]).fit(module, data)
    before, between, after = steps.weights
    expected = 0.1 * torch.stack(grads).mean(dim=0).clamp(-epsilon, epsilon)
    assert torch.equal(before, between)
    torch.testing.assert_close(before - after, expected, rtol=1e-3, atol=1e-7)
    other = 0.1 * torch.stack(grads).clamp(-epsilon, epsilon).mean(dim=0)
    assert not torch.allclose(before - after, other, rtol=1e-3, atol=1e-7)


def test_trainers_own_clip_works_without_a_rule(tmp_path: Path) -> None:
    steps = Steps()
    trainer = make_trainer(
        tmp_path, callbacks=[steps], gradient_clip_val=1e-3, gradient_clip_algorithm="value"
    )
    trainer.fit(make_module(optimizer=SGD), make_data())
    assert max(steps.sizes()) == pytest.approx(1e-4, rel=1e-3)


def test_trainers_clip_beside_a_rule_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, gradient_clip_val=0.5)
    with pytest.raises(ConfigError, match=r"gradient_clip_val"):
        trainer.fit(make_module(clip_rule=ValueClip(0.1)), make_data())
    assert trainer.global_step == 0


class DeepSpeedStrategy:
    """Called as Lightning's, which ignores the hook."""


def test_deepspeed_is_refused() -> None:
    settings = SimpleNamespace(gradient_clip_val=None, strategy=object())
    refuse_to_be_ignored(settings)  # type: ignore[arg-type]
    settings.strategy = DeepSpeedStrategy()
    with pytest.raises(ConfigError, match=r"DeepSpeed.*`fsdp` or `ddp`"):
        refuse_to_be_ignored(settings)  # type: ignore[arg-type]


class Halving(Schedule):
    """Of a range."""

    def __call__(self, step: int, epoch: int) -> float:
        return 1e-3 * 0.5**step


def test_a_range_may_follow_a_schedule(tmp_path: Path) -> None:
    """The recipe in Lightning's documentation raises where the Trainer has a `gradient_clip_val`."""
    steps = Steps()
    module = make_module(optimizer=SGD, clip_rule=ValueClip(Halving()))
    make_trainer(tmp_path, callbacks=[steps], accumulate_grad_batches=2).fit(module, make_data())
    moved = [size for size in steps.sizes() if size]
    assert moved == pytest.approx([0.1 * 1e-3, 0.1 * 5e-4], rel=1e-3)


class Broken(LogitKD):
    """Its gradient is NaN in one step; its value never is."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        self.calls += 1
        zero = student.logits.sum() * 0.0
        if self.calls - 1 == self.at:
            zero = torch.sqrt(zero.abs())  # 0, and its derivative is infinite times 0
        return super().forward(student, teacher, batch) + zero


def states(module: Any) -> list[Tensor]:
    optimizer = module.trainer.optimizers[0]
    kept = [x for state in optimizer.state.values() for x in state.values() if torch.is_tensor(x)]
    return [x.detach().clone() for x in (*module.student.parameters(), *kept)]


class States(Callback):
    """Weights and the optimizer's state after every batch."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.seen.append(states(pl_module))


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_is_not_finite_is_left_out(tmp_path: Path, fused: bool) -> None:
    """Neither weights nor moments move, and the log counts it."""
    seen, notebook = States(), Notebook()
    adamw = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1, fused=fused)
    rule = SkipNonFinite(ValueClip(0.1))
    module = make_module(losses={"kd": Broken(at=2)}, optimizer=adamw, clip_rule=rule)
    trainer = make_trainer(tmp_path, callbacks=[seen], logger=notebook, log_every_n_steps=1)
    with pytest.warns(UserWarning, match="step 2 is skipped"):
        trainer.fit(module, make_data(batch_size=4))
    pairs = [zip(a, b, strict=True) for a, b in itertools.pairwise(seen.seen)]
    same = [all(torch.equal(a, b) for a, b in pair) for pair in pairs]
    assert same == [False, True, False, False, False, False]
    assert notebook.series("clip/skipped_steps") == [0, 0, 1, 1, 1, 1, 1]


def test_a_guard_that_lets_pass_lets_the_same_step_spoil_the_weights(tmp_path: Path) -> None:
    module = make_module(losses={"kd": Broken(at=2)}, clip_rule=PropagateNonFinite(ValueClip(0.1)))
    with pytest.raises(NonFiniteError, match="step 3"):
        make_trainer(tmp_path).fit(module, make_data(batch_size=4))


@pytest.mark.parametrize("rule", [None, ValueClip(0.1)])
def test_without_a_guard_the_module_looks_itself(tmp_path: Path, rule: ClipRule | None) -> None:
    module = make_module(losses={"kd": Broken(at=2)}, clip_rule=rule)
    with pytest.raises(NonFiniteError, match=r"step 2: .*gradients of 'encoders\.a\."):
        make_trainer(tmp_path).fit(module, make_data(batch_size=4))


def test_a_step_that_is_not_finite_can_stop_training_by_name(tmp_path: Path) -> None:
    module = make_module(losses={"kd": Broken(at=1)}, clip_rule=RaiseNonFinite(ValueClip(0.1)))
    with pytest.raises(NonFiniteError, match=r"step 1: found 'encoders\.a\."):
        make_trainer(tmp_path).fit(module, make_data(batch_size=4))


@pytest.mark.parametrize("save", [False, True])
def test_nothing_ends_or_is_saved_before_news_of_the_last_step_is_in(tmp_path: Path, save: bool) -> None:
    guard = RaiseNonFinite(ValueClip(0.1))
    trainer = make_trainer(tmp_path, callbacks=[Late(guard)], limit_val_batches=0)
    module = make_module(clip_rule=PerPattern({"encoders.*": guard}))
    if save:
        module.on_train_epoch_end = lambda: trainer.save_checkpoint(tmp_path / "a.ckpt")  # type: ignore
    with pytest.raises(NonFiniteError, match="step 7: found 'late'"):
        trainer.fit(module, make_data(batch_size=4))
    assert not (tmp_path / "a.ckpt").exists()


@pytest.mark.parametrize("rule", [RaiseNonFinite(ValueClip(0.1)), SkipNonFinite(ValueClip(0.1))])
def test_an_overflow_is_the_scalers_business(tmp_path: Path, rule: ClipRule) -> None:
    """A loss scale that is too large is found by trying: neither rule may stop or count that."""
    notebook, scaler = Notebook(), torch.amp.GradScaler("cpu", init_scale=2.0**40)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    trainer = make_trainer(tmp_path, plugins=[plugin], logger=notebook, log_every_n_steps=1, max_epochs=4)
    trainer.fit(make_module(optimizer=SGD, clip_rule=rule), make_data(batch_size=2))
    assert scaler.get_scale() < 2.0**40
    assert set(notebook.series("clip/skipped_steps")) <= {0.0}
    assert 0 < len(notebook.series("clip/norm_before/a")) < trainer.global_step


class Sometimes(DistillationModule):
    """Has no loss in every other step."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) if batch_idx % 2 else None


def test_a_step_without_a_loss_moves_no_history(tmp_path: Path) -> None:
    rule = AutoClip()
    module = Sometimes(make_model(("a",)), clip_rule=rule, optimizer=SGD)
    make_trainer(tmp_path).fit(module, make_data(batch_size=4))
    assert int(rule.seen) == 3  # of 7 batches


def test_lbfgs_asks_several_times_in_one_step(tmp_path: Path) -> None:
    rule = AutoClip()
    lbfgs = partial(torch.optim.LBFGS, lr=0.1, max_iter=4)
    trainer = make_trainer(tmp_path)
    trainer.fit(supervised(optimizer=lbfgs, clip_rule=rule), make_data(batch_size=14))
    assert int(rule.seen) == trainer.global_step == 2
