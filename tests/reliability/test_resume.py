"""Training that is broken off anywhere, and goes on, comes to what it would have come to."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from lightning_distill.callbacks import GradualUnfreezing
from lightning_distill.clipping import AdaGC, AutoClip, ClipRule, ZClip
from lightning_distill.errors import CheckpointError
from lightning_distill.gradient_balancing import (
    AGM,
    OGMGE,
    PMR,
    GBlending,
    GradientBalancer,
    MMPareto,
    PCGrad,
)
from lightning_distill.teachers import EmaTeacher
from tests.builders import make_model
from tests.reliability.counts import NIGHTLY
from tests.reliability.resuming import Case, Everywhere, all_places, resumed, train

COSINE = partial(CosineAnnealingLR, T_max=3)
CYCLE = partial(OneCycleLR, max_lr=0.02, total_steps=40)
STRIDE = 1 if NIGHTLY else 11

PLAIN = {
    "every step": (Case(), 1),
    "steps of three batches": (Case(accumulate=3, trainer={"val_check_interval": 0.5}), STRIDE),
    "no validation": (Case(trainer={"limit_val_batches": 0}), STRIDE),
    "a number of steps": (Case(trainer={"max_epochs": -1, "max_steps": 10}), STRIDE),
    "validation every other epoch": (Case(trainer={"check_val_every_n_epoch": 2}), STRIDE),
    "validation every three batches": (
        Case(trainer={"check_val_every_n_epoch": None, "val_check_interval": 3}),
        STRIDE,
    ),
    "a row in five steps": (Case(trainer={"log_every_n_steps": 5}), STRIDE),
    "a teacher that follows": (Case(teacher=partial(EmaTeacher, 0.9)), STRIDE),
    "layers that learn later": (
        Case(callbacks=(partial(GradualUnfreezing, {1: ["encoders.a.linear"], 2: ["encoders.a.norm"]}),)),
        STRIDE,
    ),
}


@pytest.mark.row("K9", "P7")
@pytest.mark.parametrize("name", PLAIN)
def test_a_run_goes_on_from_everywhere(tmp_path: Path, name: str) -> None:
    """After each batch, within and after each validation, after each epoch; killed at once or at the end."""
    case, stride = PLAIN[name]
    tried, differing = all_places(tmp_path, case, stride)
    assert tried >= 2
    assert differing == {}


RULES: dict[str, Callable[[], ClipRule] | None] = {
    "none": None,
    "AutoClip": AutoClip,
    "ZClip": partial(ZClip, warmup=3),
    "AdaGC": partial(AdaGC, warmup=3),
}
SCHEDULES = ((COSINE, "epoch"), (CYCLE, "step"))
PRODUCT = [
    Case(workers, accumulate, cache, RULES[rule], *schedule)
    for workers, accumulate, cache, rule, schedule in itertools.product(
        (0, 2), (1, 3), (False, True), RULES, SCHEDULES
    )
]
COVERING = [
    Case(2 * a, 1 + 2 * (a ^ b), bool(a ^ c), RULES[list(RULES)[2 * b + c]], *SCHEDULES[a ^ b ^ c])
    for a, b, c in itertools.product((0, 1), repeat=3)
]
"""Any two settings of any two things meet in one of them."""


@pytest.mark.row("K9", "G6")
@pytest.mark.parametrize("case", PRODUCT if NIGHTLY else COVERING, ids=str)
def test_so_it_does_whatever_is_set(tmp_path: Path, case: Case) -> None:
    tried, differing = all_places(tmp_path, case, 3 if NIGHTLY else 17)
    assert tried >= 2
    assert differing == {}


@pytest.mark.row("K9")
def test_workers_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    alone = train(tmp_path / "run", Case(accumulate=3))
    shutil.rmtree(tmp_path / "run")
    assert train(tmp_path / "run", Case(workers=2, accumulate=3)).differs(alone) == []


BALANCERS: list[Callable[[], GradientBalancer]] = [
    partial(AGM, 1.0),
    partial(OGMGE, 0.3),
    partial(PMR, 0.5),
    GBlending,
    MMPareto,
    PCGrad,
]


@pytest.mark.row("K9")
@pytest.mark.parametrize("balancer", BALANCERS)
def test_balancers_go_on_from_what_they_remember(
    tmp_path: Path, balancer: Callable[[], GradientBalancer]
) -> None:
    def options() -> dict[str, Any]:
        return {"student": make_model(unimodal_heads=True), "gradient_balancer": balancer()}

    tried, differing = all_places(tmp_path, Case(module=options), STRIDE)
    assert tried >= 2
    assert differing == {}


class Kill(Callback):
    """Ends training as a crash does, when a batch begins."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            raise KilledError


class KilledError(Exception):
    """The crash."""


@pytest.mark.row("K9")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_goes_on_again_and_again_within_an_epoch(tmp_path: Path, accumulate: int) -> None:
    run = tmp_path / "run"
    whole = train(run, Case(accumulate=accumulate))
    shutil.rmtree(run)
    place: Path | None = None
    for number, batch in enumerate((5, 6, 7)):
        saver = Everywhere(tmp_path / f"places{number}")
        case = Case(accumulate=accumulate, callbacks=(partial(Kill, batch),))
        with pytest.raises(KilledError):
            train(run, case, resume=place, saver=saver)
        place = saver.places[-1]
    assert place is not None
    assert train(run, Case(accumulate=accumulate), resume=place).differs(whole) == []


@pytest.mark.row("K9")
def test_a_place_from_which_it_cannot_go_on_exactly_is_refused(tmp_path: Path) -> None:
    """In the middle of a step, where each term has a gradient of its own."""

    def options() -> dict[str, Any]:
        return {"student": make_model(("a",)), "gradient_balancer": PCGrad()}

    case = Case(accumulate=3, module=options)
    saver = Everywhere(tmp_path / "places")
    train(tmp_path / "run", case, saver=saver)
    first = saver.places[0]
    with pytest.raises(CheckpointError, match="the middle of a step"):
        resumed(tmp_path / "run", case, first, first.with_suffix(""))
