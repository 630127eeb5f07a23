"""The matrix on a CUDA device, and what is different there: nobody waits to see whether a step is finite."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_distill.clipping import RaiseNonFinite, SkipNonFinite, ValueClip
from lightning_distill.errors import NonFiniteError
from lightning_distill.gradient_balancing import OGMGE, MMPareto, PCGrad
from tests.builders import Notebook, make_data, make_trainer
from tests.module.clip_cases import Case, by_hand, cases, in_lightning, make_rule, make_student
from tests.module.parts import make_module
from tests.module.test_clip_rule import Broken, States

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TOLERANCE = {"32-true": 1e-5, "bf16-mixed": 3e-3, "16-mixed": 3e-4}


@pytest.mark.parametrize("case", cases(1), ids=str)
def test_the_same_steps_as_a_plain_loop(case: Case, tmp_path: Path) -> None:
    plain = Case(case.rule, case.precision, True, case.accumulate)
    expected = by_hand(plain, make_rule(case.rule), "cuda")
    found = in_lightning(case, tmp_path, device="cuda")
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[case.precision])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_step_that_is_not_finite_is_left_out(tmp_path: Path, fused: bool, precision: Any) -> None:
    """Neither weights nor moments move; a fused optimizer reads that on the device."""
    seen, notebook = States(), Notebook()
    adamw = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1, fused=fused)
    module = make_module(
        losses={"kd": Broken(at=2)}, optimizer=adamw, clip_rule=SkipNonFinite(ValueClip(0.1))
    )
    scaler = torch.amp.GradScaler("cuda", init_scale=256.0)  # the default one overflows at first
    mixed = [MixedPrecision("16-mixed", "cuda", scaler)] if precision == "16-mixed" else []
    trainer = make_trainer(
        tmp_path,
        accelerator="gpu",
        plugins=mixed,
        callbacks=[seen],
        logger=notebook,
        log_every_n_steps=1,
    )
    trainer.fit(module, make_data(batch_size=4))
    pairs = [zip(a, b, strict=True) for a, b in itertools.pairwise(seen.seen)]
    same = [all(torch.equal(a, b) for a, b in pair) for pair in pairs]
    # Under 16-mixed the scaler itself leaves the step out, before the rule is asked.
    assert same == [False, True, False, False, False, False]


def test_a_step_that_is_not_finite_is_named_afterwards(tmp_path: Path) -> None:
    module = make_module(losses={"kd": Broken(at=1)}, clip_rule=RaiseNonFinite(ValueClip(0.1)))
    with pytest.raises(NonFiniteError, match=r"step 1: found 'encoders\.a\."):
        make_trainer(tmp_path, accelerator="gpu", max_epochs=3).fit(module, make_data(batch_size=4))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rule", [RaiseNonFinite, SkipNonFinite])
def test_an_overflow_is_the_scalers_business(tmp_path: Path, rule: Any, fused: bool) -> None:
    notebook, scaler = Notebook(), torch.amp.GradScaler("cuda", init_scale=2.0**40)
    module = make_module(
        optimizer=partial(torch.optim.AdamW, lr=0.01, fused=fused), clip_rule=rule(ValueClip(0.1))
    )
    plugin = MixedPrecision("16-mixed", "cuda", scaler)
    trainer = make_trainer(tmp_path, accelerator="gpu", plugins=[plugin], logger=notebook, max_epochs=4)
    trainer.fit(module, make_data(batch_size=2))
    assert scaler.get_scale() < 2.0**40
    assert set(notebook.series("clip/skipped_steps")) <= {0.0}


class Strict(Callback):
    """Lets no step after the first few wait for the device in the hooks between backward and step."""

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step > 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("balancer", [None, partial(OGMGE, 0.3), MMPareto, PCGrad])
def test_nothing_waits_between_backward_and_step(tmp_path: Path, balancer: Any) -> None:
    adamw = partial(torch.optim.AdamW, lr=0.01, fused=True)
    module = make_module(
        student=make_student(),
        optimizer=adamw,
        clip_rule=SkipNonFinite(ValueClip(0.1)),
        gradient_balancer=None if balancer is None else balancer(),
    )
    trainer = make_trainer(tmp_path, accelerator="gpu", callbacks=[Strict()], log_every_n_steps=2)
    try:
        trainer.fit(module, make_data(batch_size=4))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.global_step == 7
