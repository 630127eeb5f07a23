"""Parts of the student that start to learn later."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_distill.callbacks import GradualUnfreezing
from lightning_distill.errors import ConfigError
from tests.builders import make_data, make_trainer, same_bits, weights_of
from tests.callbacks.foreign import Plain, loader
from tests.callbacks.unfreezing_two_ranks import main
from tests.module.parts import make_module, supervised
from tests.processes import needs_fork, run_apart

SCHEDULE = {1: ["encoders.a"], 2: ["encoders.b.norm"], 3: ["encoders.b"]}


class Epochs(Callback):
    """Keeps all weights at the end of each epoch, and which parts have a gradient."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.graded: list[set[str]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights.append(weights_of(pl_module))

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.now = {n for n, p in pl_module.named_parameters() if p.grad is not None}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights.append(weights_of(pl_module))
        self.graded.append(self.now)

    def moved(self, epoch: int) -> set[str]:
        """Names of weights and batch statistics that changed in an epoch."""
        before, after = self.weights[epoch], self.weights[epoch + 1]
        return {name for name, value in after.items() if not same_bits(value, before[name])}


def test_each_part_learns_from_its_epoch_on(tmp_path: Path) -> None:
    seen, module = Epochs(), supervised()
    trainer = make_trainer(tmp_path, max_epochs=4, callbacks=[GradualUnfreezing(SCHEDULE), seen])
    trainer.fit(module, make_data())
    body = {f"student.{part}" for part in ("encoders.a", "encoders.b.linear", "encoders.b.norm")}
    for epoch, frozen in enumerate(
        [body, body - {"student.encoders.a"}, {"student.encoders.b.linear"}, set[str]()]
    ):
        for name in module.state_dict():
            if name.startswith("student."):
                assert (name in seen.moved(epoch)) != name.startswith(tuple(frozen)), (epoch, name)
        assert not any(name.startswith(tuple(frozen)) for name in seen.graded[epoch])
    trained = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in module.parameters()}
    assert "configure_optimizers" not in vars(module)


def test_a_resumed_run_equals_one_that_went_on(tmp_path: Path) -> None:
    module = make_module()
    resumed = copy.deepcopy(module)
    schedule = {2: ["encoders.a"]}
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    options: dict[str, Any] = {"max_epochs": 4, "enable_checkpointing": True}
    make_trainer(tmp_path, callbacks=[GradualUnfreezing(schedule), keep], **options).fit(module, make_data())
    for epoch in (0, 2):  # before and after it is unfrozen
        again = copy.deepcopy(resumed)
        trainer = make_trainer(tmp_path, max_epochs=4, callbacks=[GradualUnfreezing(schedule)])
        trainer.fit(again, make_data(), ckpt_path=tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
        ours, theirs = weights_of(module), weights_of(again)
        assert all(same_bits(value, theirs[name]) for name, value in ours.items())


def test_in_a_module_of_others(tmp_path: Path) -> None:
    seen = Epochs()
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[GradualUnfreezing({1: ["features"]}), seen])
    trainer.fit(Plain(), loader())
    assert seen.moved(0) == {"head.weight", "head.bias"}
    assert "features.0.weight" in seen.moved(1)


def test_a_path_that_names_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[GradualUnfreezing({1: ["encoders.c"]})])
    with pytest.raises(ConfigError, match=r"layer 'encoders.c' of the student.*did you mean 'encoders"):
        trainer.fit(supervised(), make_data())


@pytest.mark.parametrize("schedule", [{-1: ["head"]}, {1: ["head"], 2: ["head"]}])
def test_schedules_that_cannot_be(schedule: dict[int, list[str]]) -> None:
    with pytest.raises(ConfigError, match=r"GradualUnfreezing.schedule"):
        GradualUnfreezing(schedule)


@needs_fork
def test_two_processes_stay_alike(tmp_path: Path) -> None:
    run_apart(main, tmp_path)
    one, first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("1_0", "2_0", "2_1"))
    assert first == second
    assert first == pytest.approx(one, rel=1e-4, abs=1e-6)
    assert torch.tensor(first).isfinite().all()
