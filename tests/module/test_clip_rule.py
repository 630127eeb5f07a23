"""The clip rule acts, once an optimizer step, and is not silently ignored."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_distill import checks
from lightning_distill.clipping import ValueClip
from lightning_distill.errors import ConfigError
from tests.builders import make_data, make_model, make_trainer
from tests.module.parts import SGD, Spy, Steps, make_module, supervised


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


def settings(**changes: Any) -> Any:
    """What the check reads of a Trainer."""
    plain = {
        "gradient_clip_val": None,
        "strategy": object(),
        "precision_plugin": SimpleNamespace(scaler=None),
        "optimizers": [],
    }
    return SimpleNamespace(**(plain | changes))


def test_deepspeed_is_refused() -> None:
    checks.clip_rule_is_obeyed(settings())
    with pytest.raises(ConfigError, match="DeepSpeed"):
        checks.clip_rule_is_obeyed(settings(strategy=DeepSpeedStrategy()))


def test_scaled_gradients_are_refused() -> None:
    """Under 16-mixed, Lightning leaves the gradients of a fused optimizer scaled."""
    weight = torch.nn.Parameter(torch.zeros(2))
    plain, fused = (torch.optim.AdamW([weight], fused=fused) for fused in (False, True))
    mixed = SimpleNamespace(scaler=object())
    checks.clip_rule_is_obeyed(settings(precision_plugin=mixed, optimizers=[plain]))
    checks.clip_rule_is_obeyed(settings(optimizers=[fused]))
    with pytest.raises(ConfigError, match="fused AdamW"):
        checks.clip_rule_is_obeyed(settings(precision_plugin=mixed, optimizers=[fused]))
