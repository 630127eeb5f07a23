"""Memory that runs out, weights and metrics that are NaN, steps that a loss scaler leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from lightning_distill.callbacks import BestCheckpoint
from lightning_distill.clipping import ValueClip
from lightning_distill.errors import NonFiniteError
from lightning_distill.guards.memory import MemoryShortError
from lightning_distill.losses import LogitKD
from lightning_distill.module import DistillationModule
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import EmaTeacher
from tests.builders import Notebook, make_data, make_model, make_trainer, same_bits
from tests.module.parts import SGD, supervised
from tests.reliability.injections import Last

NAN = float("nan")
HUGE = 1 << 34
"""Bytes."""


# -- memory -----------------------------------------------------------------------------------------------


@contextmanager
def little_memory() -> Iterator[None]:
    """No more than a gibibyte on top of what this process has."""
    resource = pytest.importorskip("resource", reason="no limits of memory on this system")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc to tell how much memory this process has")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Greedy(torch.autograd.Function):
    """Wants too much in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        with little_memory():
            return grad + torch.zeros(HUGE, dtype=torch.uint8).sum()


class Wants(LogitKD):
    """A term that wants too much in one step."""

    needs_teacher = False

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.step = where, 0

    def begin_step(self, step: int, epoch: int) -> None:
        self.step = step

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> Tensor:  # type: ignore[override]
        x = student.logits.square().mean()
        if self.step != 2:
            return x
        if self.where == "numpy":
            with little_memory():
                np.zeros(HUGE, np.uint8)
        if self.where == "forward":
            with little_memory():
                torch.zeros(HUGE, dtype=torch.uint8)
        return Greedy.apply(x) if self.where == "backward" else x  # type: ignore[no-any-return, no-untyped-call]


class HalfWay(torch.optim.SGD):
    """Runs out of memory after the first weight."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        if self.param_groups[0]["params"][0].grad is not None and self.calls == 2:
            with little_memory():
                torch.zeros(HUGE, dtype=torch.uint8)
        self.calls += 1

    calls = 0


@pytest.mark.row("G9")
@pytest.mark.parametrize(
    ("where", "words"),
    [("numpy", "the forward pass"), ("forward", "the forward pass"), ("backward", "the backward pass")],
)
def test_memory_that_runs_out_before_the_update(tmp_path: Path, where: str, words: str) -> None:
    last, module = Last(), supervised(losses={"greedy": Wants(where)}, optimizer=SGD)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_exception=True)
    trainer = make_trainer(tmp_path, callbacks=[last, keep], enable_checkpointing=True)
    with pytest.raises(MemoryShortError) as caught:
        trainer.fit(module, make_data())
    assert caught.value.where == f"epoch 0, step 2, {words}"
    assert re.search(
        r"a batch of 8 samples; at most [\d,]+ MiB were in use \(\w+: .*llocate", caught.value.found
    )
    assert "no update was made" in caught.value.expected
    assert trainer.global_step == 2
    now = dict(module.named_parameters())
    assert all(same_bits(old, now[name].detach()) for name, old in last.weights.items())


@pytest.mark.row("G9")
def test_memory_that_runs_out_within_the_update_leaves_no_checkpoint(tmp_path: Path) -> None:
    """Not even where one is asked for after any error."""
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = make_trainer(tmp_path, callbacks=[keep], enable_checkpointing=True)
    module = supervised(optimizer=partial(HalfWay, lr=0.1))
    with pytest.raises(MemoryShortError, match="its update had begun") as caught:
        trainer.fit(module, make_data())
    assert caught.value.where == "epoch 0, step 2, the update"
    with pytest.raises(MemoryShortError, match="nothing was written"):
        trainer.save_checkpoint(tmp_path / "broken.ckpt")
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=1.ckpt", "step=2.ckpt"]


@pytest.mark.row("G9")
@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_a_device_that_runs_out(tmp_path: Path) -> None:
    class OnDevice(LogitKD):
        needs_teacher = False

        def forward(self, student: ModelOutput, teacher: Any, batch: Batch) -> Tensor:
            return student.logits.mean() + torch.zeros(1 << 50, device=student.logits.device).sum()

    trainer = make_trainer(tmp_path, accelerator="gpu")
    with pytest.raises(MemoryShortError, match=r"at most [\d,]+ MiB of cuda:0 were in use"):
        trainer.fit(supervised(losses={"greedy": OnDevice()}), make_data())


# -- what is saved ----------------------------------------------------------------------------------------


class Spoil(Callback):
    """Spoils a weight, or a running statistic, after a step."""

    def __init__(self, name: str, bad: float) -> None:
        self.name, self.bad = name, bad

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == 2:
            part, _, name = self.name.rpartition(".")
            getattr(pl_module.student.get_submodule(part), name).data.view(-1)[0] = self.bad


@pytest.mark.row("K7")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["head.weight", "encoders.a.norm.bias", "encoders.b.norm.running_var"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, name: str, bad: float) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=1, save_last=True)
    trainer = make_trainer(tmp_path, callbacks=[Spoil(name, bad), keep], enable_checkpointing=True)
    with pytest.raises(NonFiniteError, match=rf"checkpoint of step 2: found 'student\.{name}' \("):
        trainer.fit(supervised(optimizer=SGD), make_data())
    files = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert files == ["last.ckpt", "step=1.ckpt"]
    for file in files:
        state = torch.load(tmp_path / file, weights_only=True)["state_dict"]
        assert all(x.isfinite().all() for x in state.values())


class Scores(LightningModule):
    """Logs what it is told to."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.linear, self.scores = nn.Linear(2, 1), scores

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.linear(batch).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/score", torch.tensor(self.scores[self.current_epoch]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.row("G10")
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "scores", [[np.nan, 0.5, np.nan, np.nan], [0.5, np.nan, 0.4, 0.6], [np.nan, np.nan, 0.5, np.nan]]
)
def test_a_metric_that_is_nan_is_never_the_best(tmp_path: Path, mode: str, scores: list[float]) -> None:
    keep = BestCheckpoint(tmp_path, "best", monitor="val/score", mode=mode)
    trainer = make_trainer(tmp_path, callbacks=[keep], enable_checkpointing=True, max_epochs=4)
    data = torch.utils.data.DataLoader(torch.randn(4, 2), batch_size=2)  # type: ignore[arg-type, var-annotated]
    trainer.fit(Scores(scores), data, data)
    best = (np.nanargmin if mode == "min" else np.nanargmax)(scores)
    assert torch.load(keep.best_model_path, weights_only=True)["epoch"] == best
    assert float(keep.best_model_score or 0) == pytest.approx(scores[best])


# -- the loss scaler --------------------------------------------------------------------------------------


@pytest.mark.row("G3")
@pytest.mark.parametrize("clip", [None, ValueClip(0.1)])
@pytest.mark.parametrize("skip", [0, 2])
def test_a_step_the_scaler_leaves_out_counts_for_everybody(tmp_path: Path, clip: Any, skip: int) -> None:
    """Number of steps, schedule and teacher agree; weights stay; the log tells how many there were."""
    scaler, notebook = torch.amp.GradScaler("cpu", init_scale=2.0**24), Notebook()
    moved, rates, scales = list[bool](), list[float](), list[float]()

    class Watch(Last):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            now = dict(pl_module.named_parameters())
            moved.append(any(not torch.equal(old, now[name]) for name, old in self.weights.items()))
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            scales.append(scaler.get_scale())

    student, teacher = make_model(("a",)), EmaTeacher(0.5)
    module = DistillationModule(
        student,
        teacher,
        {"kd": LogitKD()},
        clip_rule=clip,
        optimizer=SGD,
        lr_scheduler=partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.9**step),
        scheduler_interval="step",
        skip_non_finite=skip,
    )
    trainer = make_trainer(
        tmp_path,
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        callbacks=[Watch()],
        logger=notebook,
        max_epochs=4,
    )
    trainer.fit(module, make_data())
    left_out = [scale < before for before, scale in zip([2.0**24, *scales], scales, strict=False)]
    assert 0 < sum(left_out) < len(left_out)
    assert moved == [not each for each in left_out]
    assert trainer.global_step == len(moved) == module._steps_seen == 16
    assert rates == pytest.approx([0.1 * 0.9 ** (step + 1) for step in range(16)])
    assert notebook.series("train/skipped_steps") == np.cumsum(left_out).tolist()
