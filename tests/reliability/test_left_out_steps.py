"""Optimizer steps that may be left out because they are not finite: they leave no trace, and are counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lightning_distill.clipping import (
    AutoClip,
    ClipChain,
    ClipRule,
    RaiseNonFinite,
    SkipNonFinite,
    ValueClip,
)
from lightning_distill.errors import ConfigError, NonFiniteError
from lightning_distill.guards.finite import FiniteCheck
from lightning_distill.module import DistillationModule
from lightning_distill.structures import Batch
from lightning_distill.teachers import FrozenTeacher
from tests.builders import Notebook, VectorSource, make_data, make_model, make_trainer, same_bits
from tests.processes import needs_fork, run_apart
from tests.reliability.injections import Inject, Term, distilled, has_bad, same_state, train
from tests.reliability.left_out_ranks import main

STEPS = 4


def spoil_input(module: DistillationModule, batch: Batch) -> None:
    values = batch["inputs"]["a"]
    assert isinstance(values, Tensor)
    values[3] = math.nan


def bad_term(module: DistillationModule, batch: Batch) -> None:
    term = module.terms.losses["kd"]
    assert isinstance(term, Term)
    term.bad = math.inf


def good_term(module: DistillationModule) -> Callable[[], None]:
    def undo() -> None:
        term = module.terms.losses["kd"]
        assert isinstance(term, Term)
        term.bad = None

    return undo


def everything(module: DistillationModule) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in module.state_dict().items()}


class After(Callback):
    """Weights, buffers and history after each batch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.seen.append(everything(pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.seen.append(everything(pl_module))


@pytest.mark.row("G2")
@pytest.mark.parametrize("kind", ["input", "detached term", "gradient"])
def test_steps_can_be_left_out_without_a_trace(tmp_path: Path, kind: str) -> None:
    """Also running statistics; and a term without a gradient leaves its step out like any other."""
    module, notebook, after = (
        distilled(AutoClip(), losses={"kd": Term(True)}, skip_non_finite=2),
        Notebook(),
        After(),
    )
    handles: list[Any] = []

    def gradient(module: DistillationModule, batch: Batch) -> None:
        handles.append(module.student.head.weight.register_hook(lambda grad: grad * math.nan))

    def undo() -> None:
        good_term(module)()
        while handles:
            handles.pop().remove()

    do = {"input": spoil_input, "detached term": bad_term, "gradient": gradient}[kind]
    inject = Inject((1, 2), do, undo)
    with pytest.warns(UserWarning, match=r"epoch 0, step 1 is left out \(1 so far\): .*samples \["):
        outcome = train(
            tmp_path, module, inject, callbacks=[inject, after], logger=notebook, limit_val_batches=1
        )
    assert outcome.error is None
    assert outcome.trainer.global_step == STEPS
    same = [same_state(a, b) for a, b in itertools.pairwise(after.seen)]
    assert same == [False, True, True, False]
    assert all(
        same_bits(a, b) for a, b in zip(inject.before[1].values(), inject.before[2].values(), strict=False)
    )
    assert all(x.isfinite().all() for n, x in after.seen[-1].items() if "rule" not in n)
    assert notebook.series("train/skipped_steps") == [0, 1, 2, 2]
    assert all(math.isfinite(value) for value in notebook.series("train/loss"))


def test_more_steps_in_a_row_than_allowed_stop(tmp_path: Path) -> None:
    module = distilled(None, skip_non_finite=2)
    inject = Inject((1, 2, 3), spoil_input)
    with pytest.warns(UserWarning, match="left out"):
        outcome = train(tmp_path, module, inject)
    assert outcome.error is not None
    assert outcome.error.where == "epoch 0, step 3"
    assert "3 steps in a row" in outcome.error.found
    assert "input 'a'" in outcome.error.found
    assert sorted(outcome.saved) == [1, 2, 3]
    assert not any(has_bad(checkpoint) for checkpoint in outcome.saved.values())


def test_steps_that_are_not_in_a_row_do_not_add_up(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="left out"):
        outcome = train(tmp_path, distilled(None, skip_non_finite=1), Inject((0, 2), spoil_input))
    assert outcome.error is None
    assert float(outcome.module._finite.left_out) == 2


@pytest.mark.parametrize("bad", [0, 1])
def test_one_batch_of_several_leaves_the_whole_step_out(tmp_path: Path, bad: int) -> None:
    module, after = distilled(ValueClip(0.1), skip_non_finite=1), After()
    inject = Inject((bad,), spoil_input)
    with pytest.warns(UserWarning, match="step 0 is left out"):
        outcome = train(tmp_path, module, inject, callbacks=[inject, after], accumulate_grad_batches=2)
    assert outcome.error is None
    start, _, step, _, end = after.seen
    assert same_state(start, step)
    assert not same_state(step, end)
    assert all(x.isfinite().all() for x in end.values())


def test_the_count_goes_on_after_a_resume(tmp_path: Path) -> None:
    teacher = FrozenTeacher(make_model())
    module, again = (distilled(None, teacher=teacher, skip_non_finite=2) for _ in range(2))
    with pytest.warns(UserWarning, match="left out"):
        first = train(tmp_path, module, Inject((2, 3), spoil_input))
    assert first.error is None
    last = tmp_path / "kept" / "step=4.ckpt"
    trainer = make_trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    trainer.callbacks.append(Inject((4,), spoil_input))
    with pytest.raises(NonFiniteError, match="3 steps in a row"):
        trainer.fit(again, make_data(VectorSource(train=32)), ckpt_path=last, weights_only=True)
    assert float(again._finite.left_out) == 3


@pytest.mark.parametrize("rule", [SkipNonFinite(ValueClip(1.0)), ClipChain([RaiseNonFinite(ValueClip(1.0))])])
def test_two_who_decide_are_refused(rule: ClipRule) -> None:
    with pytest.raises(ConfigError, match=r"skip_non_finite: found 3 beside the clip rule \w+NonFinite"):
        distilled(rule, skip_non_finite=3)
    with pytest.raises(ConfigError, match="found -1"):
        distilled(None, skip_non_finite=-1)


class Late(Callback):
    """Has everything read as on an accelerator."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module._finite = FiniteCheck(deferred=True, skip=pl_module.skip_non_finite)


@pytest.mark.parametrize("allowed", [1, 2])
def test_an_accelerator_that_is_not_asked_leaves_the_same_steps_out(tmp_path: Path, allowed: int) -> None:
    """The way without a synchronisation, on the CPU: the rule has edited, and its history is put back."""
    module, after = distilled(AutoClip(), skip_non_finite=allowed), After()
    inject = Inject((1, 2), spoil_input)
    with pytest.warns(UserWarning, match="step 1 is left out"):
        outcome = train(tmp_path, module, inject, callbacks=[inject, Late(), after])
    same = [same_state(a, b) for a, b in itertools.pairwise(after.seen)]
    if allowed == 2:
        assert outcome.error is None
        assert same == [False, True, True, False]
    else:
        assert same == [False, True, True]
        assert outcome.error is not None
        assert "2 steps in a row" in outcome.error.found
        assert "input 'a'" in outcome.error.found
        assert outcome.error.where == "epoch 0, step 2"


@needs_fork
@pytest.mark.row("G2", "G5")
def test_two_processes_leave_the_same_step_out(tmp_path: Path) -> None:
    """One of them has a loss that is not finite, and no gradient that would tell the other."""
    run_apart(main, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    states = [found["states"] for found in ranks]
    assert [found["left_out"] for found in ranks] == [1, 1]
    for one, other in zip(*states, strict=True):
        assert same_state(one, other)
    same = [same_state(a, b) for a, b in itertools.pairwise(states[0])]
    assert same == [False, True, False]
