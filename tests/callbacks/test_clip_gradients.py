"""A rule dropped into modules that know nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from lightning_distill.callbacks import ClipGradients
from lightning_distill.clipping import (
    AdaGC,
    AutoClip,
    ClipChain,
    ClipReport,
    ClipRule,
    PerPattern,
    RaiseNonFinite,
    SpikeClip,
    ValueClip,
)
from lightning_distill.errors import CheckpointError, ConfigError, NonFiniteError
from lightning_distill.gradients import Gradients
from tests.builders import Notebook, make_data, make_trainer
from tests.callbacks.foreign import Plain, loader
from tests.module.parts import Late, make_module


class Largest(ClipRule):
    """Notes the largest entry it is given, and edits nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, float]] = []

    def edit(self, gradients: Gradients) -> ClipReport:
        self.seen.append((len(gradients), max(float(g.abs().max()) for g in gradients.local)))
        return ClipReport()


class TwoOptimizers(LightningModule):
    """The second part has a loss a thousand times the first's."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.small, self.large = nn.Linear(6, 3), nn.Linear(6, 3)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        parts = zip((self.small, self.large), (1.0, 1000.0), self.optimizers(), strict=True)
        for part, size, optimizer in parts:
            optimizer.zero_grad()
            self.manual_backward(size * nn.functional.cross_entropy(part(x), y))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=1.0) for part in (self.small, self.large)]


class Moved(Callback):
    """How far each part has moved in each batch."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, *args: Any) -> None:
        self.before = {n: p.detach().clone() for n, p in module.named_parameters()}

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        now = dict(module.named_parameters())
        self.steps.append({n: float((now[n] - old).detach().abs().max()) for n, old in self.before.items()})


@pytest.mark.parametrize("manual", [False, True])
def test_bounds_the_steps_of_a_plain_module(tmp_path: Path, manual: bool) -> None:
    moved, rule = Moved(), PerPattern({"head.*": ValueClip(1e-3)}, rest=ValueClip(1e-2))
    trainer = make_trainer(tmp_path, callbacks=[moved, ClipGradients(rule)], limit_train_batches=1)
    trainer.fit(Plain(manual), loader())
    (step,) = moved.steps
    assert step["head.weight"] == pytest.approx(0.05 * 1e-3, rel=1e-3)
    assert step["features.0.weight"] == pytest.approx(0.1 * 1e-2, rel=1e-3)


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_unscaled(tmp_path: Path, manual: bool, fused: bool) -> None:
    """Under 16-mixed, Lightning's documented recipe for manual optimization clips scaled gradients, and for
    fused optimizers its hook sees them scaled.
    """

    class Fused(Plain):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-6, fused=fused)

    found = {}
    for scale in (None, 4096.0):
        torch.manual_seed(0)
        rule = Largest()
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        plugins = [] if scale is None else [MixedPrecision("16-mixed", "cpu", scaler)]
        callbacks: list[Callback] = [ClipGradients(rule)]
        make_trainer(tmp_path, callbacks=callbacks, plugins=plugins).fit(Fused(manual), loader())
        found[scale] = [largest for _, largest in rule.seen]
    assert len(found[None]) == 4
    assert found[4096.0] == pytest.approx(found[None], rel=2e-2)


def test_each_of_several_optimizers_has_its_rule(tmp_path: Path) -> None:
    first, second, moved = ValueClip(1e-3), ValueClip(1e-2), Moved()
    trainer = make_trainer(tmp_path, callbacks=[moved, ClipGradients([first, second])])
    trainer.fit(TwoOptimizers(), loader())
    for step in moved.steps:
        assert step["small.weight"] == pytest.approx(1e-3, rel=1e-2)
        assert step["large.weight"] == pytest.approx(1e-2, rel=1e-2)


def test_histories_of_several_optimizers_do_not_mix(tmp_path: Path) -> None:
    rules = [AutoClip(), AutoClip()]
    make_trainer(tmp_path, callbacks=[ClipGradients(rules)]).fit(TwoOptimizers(), loader())
    assert [int(rule.seen) for rule in rules] == [4, 4]
    assert rules[1].norms.nan_to_num(1e9).min() > 50 * rules[0].norms.nan_to_num(0.0).max()


def test_one_rule_that_remembers_is_refused_for_two_optimizers(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[ClipGradients(AutoClip())])
    with pytest.raises(ConfigError, match=r"1 rule.* for 2 optimizers"):
        trainer.fit(TwoOptimizers(), loader())


def test_the_trainers_own_clip_beside_it_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[ClipGradients(ValueClip(0.1))], gradient_clip_val=0.5)
    with pytest.raises(ConfigError, match=r"gradient_clip_val"):
        trainer.fit(Plain(), loader())
    assert trainer.global_step == 0


@pytest.mark.parametrize("manual", [False, True])
def test_what_a_rule_remembers_is_in_the_checkpoint(tmp_path: Path, manual: bool) -> None:
    first, second = AutoClip(), AutoClip()
    trainer = make_trainer(tmp_path, callbacks=[ClipGradients(first)], max_epochs=1)
    trainer.fit(Plain(manual), loader())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = make_trainer(tmp_path, callbacks=[ClipGradients(second)], max_epochs=2)
    again.fit(Plain(manual), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert int(first.seen) == 4
    assert int(second.seen) == 8
    assert torch.equal(first.norms[:4], second.norms[:4])


@pytest.mark.parametrize("manual", [False, True])
def test_logs_what_the_rule_did(tmp_path: Path, manual: bool) -> None:
    notebook = Notebook()
    trainer = make_trainer(
        tmp_path, callbacks=[ClipGradients(ValueClip(1e-4))], logger=notebook, log_every_n_steps=2
    )
    trainer.fit(Plain(manual), loader())
    shares = [v for _, row in notebook.rows for name, v in row.items() if "clipped_share" in name]
    assert len(shares) >= 2
    assert all(0.5 < share <= 1 for share in shares)


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_what_each_of_several_rules_did_is_logged(tmp_path: Path, every: int) -> None:
    """global_step counts the steps of both: by it, one of them would have no log step at all."""
    notebook, rules = Notebook(), [ValueClip(1e-4), ValueClip(1e-4)]
    trainer = make_trainer(
        tmp_path, callbacks=[ClipGradients(rules)], logger=notebook, log_every_n_steps=every
    )
    trainer.fit(TwoOptimizers(), loader())
    for number in (0, 1):
        assert len(notebook.series(f"clip/{number}/clipped_share/other")) == 4 // every


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([AutoClip()], [AutoClip(window=7)]),
        ([AutoClip()], [ValueClip(0.1)]),
        ([ValueClip(0.1)], [AutoClip()]),
        ([SpikeClip()], [AdaGC()]),
        ([AutoClip()], [ClipChain([AutoClip()])]),
        ([ValueClip(0.1)], [ValueClip(0.1), ValueClip(0.1)]),
    ],
)
def test_another_rules_history_is_refused(before: list[ClipRule], after: list[ClipRule]) -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    before[0].clip({"weight": weight})
    with pytest.raises(CheckpointError, match=r"state of ClipGradients.*of the run that is resumed"):
        ClipGradients(after).load_state_dict(ClipGradients(before).state_dict())


def test_a_module_that_clips_by_itself_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[ClipGradients(ValueClip(0.1))])
    with pytest.raises(ConfigError, match=r"DistillationModule that has a clip_rule of its own"):
        trainer.fit(make_module(clip_rule=ValueClip(0.1)), make_data())
    assert trainer.global_step == 0


@pytest.mark.parametrize("inside", [False, True])
def test_news_of_the_last_step_is_waited_for(tmp_path: Path, inside: bool) -> None:
    guard = RaiseNonFinite(ValueClip(0.1))
    late, rule = Late(guard), ClipChain([ValueClip(1.0), guard]) if inside else guard
    trainer = make_trainer(tmp_path, callbacks=[ClipGradients(rule), late], max_epochs=1)
    with pytest.raises(NonFiniteError, match="step 7: found 'late'"):
        trainer.fit(Plain(), loader())
