"""Randomness is a function of (seed, epoch, sample) and (seed, step): same weights to the last bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_distill.clipping import AdaGC, AutoClip, ClipRule, ValueClip, ZClip
from lightning_distill.data import Shuffle
from lightning_distill.module import DistillationModule
from tests.builders import make_data, make_model, make_trainer, same_bits, weights_of
from tests.module.parts import Each, make_module

EPOCHS = 3  # of 4 batches each
CLIP = partial(ValueClip, 0.05)


class Kill(Callback):
    """Stops training as a crash does, when a step begins."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise KilledError


class KilledError(Exception):
    """The crash."""


def build(seed: int = 11, rule: Callable[[], ClipRule] = CLIP) -> DistillationModule:
    """Student (dropout of units and of modalities, batch normalisation) and teacher, the same each time."""
    seed_everything(seed, verbose=False)
    return make_module(student=make_model(modality_dropout=0.3), clip_rule=rule())


def train(
    folder: Path,
    workers: int = 0,
    resume: Path | None = None,
    rule: Callable[[], ClipRule] = CLIP,
    **options: Any,
) -> dict[str, Tensor]:
    """Weights, the rule's history and the optimizer's state after a run."""
    module = build(rule=rule)
    trainer = make_trainer(folder, **({"max_epochs": EPOCHS} | options))
    data = make_data(num_workers=workers, sampling=Shuffle(labelled_per_batch=2))
    torch.rand(3)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    state = trainer.optimizers[0].state_dict()["state"]
    moments = {f"{i}.{name}": x for i, found in state.items() for name, x in found.items()}
    return weights_of(module) | {name: torch.as_tensor(x) for name, x in moments.items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not same_bits(a[name], b[name])]


def disturb() -> None:
    torch.rand(random.randrange(1, 50))
    np.random.rand(3)


def test_other_draws_in_between_do_not_matter(tmp_path: Path) -> None:
    quiet = train(tmp_path)
    assert differing(train(tmp_path, callbacks=[Each(disturb)]), quiet) == []
    assert differing(train(tmp_path, num_sanity_val_steps=2, limit_val_batches=0), quiet) == []


def test_the_seed_matters(tmp_path: Path) -> None:
    """Even for the same initial weights: order, augmentation and dropout change."""
    first, second = build(1), build(1)
    second.seed = 2
    for module in (first, second):
        make_trainer(tmp_path).fit(module, make_data())
    assert not same_bits(first.student.head.weight, second.student.head.weight)


def test_every_step_has_its_own_seed(tmp_path: Path) -> None:
    seeds: list[int] = []
    for _ in range(2):
        module = build()
        module.student.register_forward_pre_hook(lambda *_: seeds.append(torch.initial_seed()))
        make_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(module, make_data())
    first, again = seeds[:8], seeds[8:]
    assert len(set(first)) == 8
    assert again == first


@pytest.mark.parametrize(
    ("saved", "killed", "accumulate"),
    [(4, 6, 1), (5, 5, 1), (5, 7, 1), (8, 8, 1), (3, 4, 2), (2, 3, 3)],
)
def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, saved: int, killed: int, accumulate: int
) -> None:
    """At the end and in the middle of an epoch, right after the checkpoint and steps later."""
    run = {"accumulate_grad_batches": accumulate}
    whole = train(tmp_path, **run)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=saved, save_top_k=-1)
    with pytest.raises(KilledError):
        train(tmp_path, callbacks=[keep, Kill(killed)], enable_checkpointing=True, **run)
    resumed = train(tmp_path, resume=tmp_path / f"step={saved}.ckpt", **run)
    assert differing(resumed, whole) == []


@pytest.mark.row("G6")
@pytest.mark.parametrize("rule", [AutoClip, partial(ZClip, warmup=3), partial(AdaGC, warmup=3)])
def test_a_rule_goes_on_from_what_it_remembers(tmp_path: Path, rule: Callable[[], ClipRule]) -> None:
    whole = train(tmp_path, rule=rule)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    with pytest.raises(KilledError):
        train(tmp_path, callbacks=[keep, Kill(6)], enable_checkpointing=True, rule=rule)
    assert differing(train(tmp_path, resume=tmp_path / "step=5.ckpt", rule=rule), whole) == []


@pytest.mark.parametrize("validates", [True, False])
def test_a_run_resumes_from_the_checkpoint_of_an_epoch(tmp_path: Path, validates: bool) -> None:
    run: dict[str, Any] = {} if validates else {"limit_val_batches": 0}
    whole = train(tmp_path, **run)
    train(
        tmp_path, max_epochs=1, callbacks=[ModelCheckpoint(tmp_path, "c")], enable_checkpointing=True, **run
    )
    assert differing(train(tmp_path, resume=tmp_path / "c.ckpt", **run), whole) == []


def test_the_number_of_workers_does_not_matter(tmp_path: Path) -> None:
    """Also after a resume in the middle of the second epoch, when workers fetch ahead."""
    alone = train(tmp_path)
    keep = ModelCheckpoint(tmp_path, "c", every_n_train_steps=6)
    assert differing(train(tmp_path, 2, callbacks=[keep], enable_checkpointing=True), alone) == []
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=6, save_top_k=-1)
    train(tmp_path, 0, callbacks=[keep], enable_checkpointing=True)
    assert differing(train(tmp_path, 2, resume=tmp_path / "step=6.ckpt"), alone) == []


def test_a_loader_asked_for_after_a_crash_starts_from_the_beginning(tmp_path: Path) -> None:
    data = make_data()
    with pytest.raises(KilledError):
        make_trainer(tmp_path, callbacks=[Kill(2)]).fit(build(), data)
    assert sum(len(batch["target"]) for batch in data.train_dataloader()) == 28
