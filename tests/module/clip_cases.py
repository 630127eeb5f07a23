"""The same training twice: in Lightning with a rule, and as a plain loop that calls the rule itself."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_distill.callbacks import ClipGradients
from lightning_distill.clipping import ClipRule, ValueClip
from lightning_distill.encoders import Encoder
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from lightning_distill.structures import Batch
from lightning_distill.tasks import Classification
from tests.builders import CLASSES, DIMS, make_batch, make_trainer
from tests.shelves import build, concrete

RATE, STEPS, SCALE = 0.5, 4, 512.0
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    rule: str
    precision: str
    automatic: bool
    accumulate: int
    ranks: int = 1
    fused: bool = False

    def __str__(self) -> str:
        mode = "auto" if self.automatic else "manual"
        fused = "-fused" if self.fused else ""
        return f"{self.rule}-{self.precision}-{mode}-x{self.accumulate}-r{self.ranks}{fused}"


def cases(ranks: int) -> list[Case]:
    """All rules in all modes."""
    return [
        Case(cls.__name__, precision, automatic, accumulate, ranks, fused)
        for cls in concrete("clipping")
        for precision in PRECISIONS
        for automatic in (True, False)
        for accumulate in (1, 3)
        for fused in ((False, True) if precision == "16-mixed" else (False,))
    ]


def make_rule(name: str) -> ClipRule:
    """A rule that acts in these trainings: wrappers get a `ValueClip`, ranges are small."""
    (cls,) = [cls for cls in concrete("clipping") if cls.__name__ == name]
    wanted = inspect.signature(cls).parameters
    options: dict[str, Any] = {}
    if "rule" in wanted:
        options["rule"] = ValueClip(0.01)
    if "rules" in wanted:
        inner: dict[str, Any] = {
            "ClipChain": [ValueClip(0.05), build(_class("NormClip"), max_norm=0.1)],
            "PerModality": {"a": ValueClip(0.01), "b": ValueClip(0.003)},
            "PerPattern": {"encoders.*.weight": ValueClip(0.01), "*": ValueClip(0.02)},
        }
        options["rules"] = inner[name]
    small = {"epsilon": 0.01, "max_norm": 0.1, "threshold": 0.01, "warmup": 1, "share": 0.2}
    options |= {key: value for key, value in small.items() if key in wanted and name not in ("ZClip",)}
    if name == "ZClip":
        options = {"warmup": 2, "threshold": 0.1}
    return build(cls, **options)


def _class(name: str) -> Any:
    (cls,) = [cls for cls in concrete("clipping") if cls.__name__ == name]
    return cls


class SmoothEncoder(Encoder):
    """Nothing that depends on the batch or on chance."""

    def __init__(self, dim: int) -> None:
        super().__init__(4)
        self.first, self.second = nn.Linear(dim, 6), nn.Linear(6, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(inputs))))


def make_student() -> MultimodalModel:
    torch.manual_seed(11)
    return MultimodalModel({m: SmoothEncoder(dim) for m, dim in DIMS.items()}, len(CLASSES))


def make_batches(accumulate: int, ranks: int) -> list[list[Batch]]:
    """A list for each rank; the batches grow, so that no two steps are alike."""
    torch.manual_seed(5)
    made = [[make_batch(size=3) for _ in range(STEPS * accumulate)] for _ in range(ranks)]
    for batches in made:
        for number, batch in enumerate(batches):
            for inputs in batch["inputs"].values():
                inputs.mul_(1 + number / len(batches))  # type: ignore[union-attr]
    return made


def optimizer_of(parameters: Any, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=RATE, momentum=0.5, fused=fused)


class Manual(LightningModule):
    """Of somebody else: it optimizes by hand and knows nothing of clipping."""

    def __init__(self, student: MultimodalModel, accumulate: int, fused: bool) -> None:
        super().__init__()
        self.student, self.accumulate, self.fused = student, accumulate, fused
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self.student(batch).logits, batch["target"])
        self.manual_backward(loss / self.accumulate)
        if (batch_idx + 1) % self.accumulate == 0:
            optimizer = self.optimizers()
            optimizer.step()  # type: ignore[union-attr]
            optimizer.zero_grad()  # type: ignore[union-attr]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self.parameters(), self.fused)


def flat(student: nn.Module) -> Tensor:
    return torch.cat([p.detach().float().flatten() for p in student.parameters()])


def in_lightning(case: Case, folder: Path, rank: int = 0, device: str = "cpu", **options: Any) -> Tensor:
    """The weights after the training in Lightning."""
    student, rule = make_student(), make_rule(case.rule)
    options["accelerator"] = {"cpu": "cpu", "cuda": "gpu"}[device]
    if case.precision == "16-mixed":
        scaler = torch.amp.GradScaler(device, init_scale=SCALE)
        options["plugins"] = [MixedPrecision("16-mixed", device, scaler)]
    else:
        options["precision"] = case.precision
    callbacks, module = [], None
    if case.automatic:
        make = partial(optimizer_of, fused=case.fused)
        module = DistillationModule(student, clip_rule=rule, optimizer=make)
        options["accumulate_grad_batches"] = case.accumulate
    else:
        module, callbacks = Manual(student, case.accumulate, case.fused), [ClipGradients(rule)]
    batches = make_batches(case.accumulate, case.ranks)[rank]
    trainer = make_trainer(folder, callbacks=callbacks, use_distributed_sampler=False, **options)
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == STEPS
    return flat(student).cpu()


def by_hand(case: Case, rule: ClipRule | None, device: str = "cpu") -> Tensor:
    """The weights after a plain loop; the mean over ranks is the mean of their losses."""
    student = make_student().to(device)
    optimizer = optimizer_of(student.parameters(), fused=False)
    scaler = torch.amp.GradScaler(device, init_scale=SCALE, enabled=case.precision == "16-mixed")
    dtype = torch.float16 if case.precision == "16-mixed" else torch.bfloat16
    task, ranks = Classification(), make_batches(case.accumulate, case.ranks)
    for step in range(STEPS):
        for micro in range(case.accumulate):
            for batches in ranks:
                batch = moved(batches[step * case.accumulate + micro], device)
                with torch.autocast(device, dtype, enabled=case.precision != "32-true", cache_enabled=False):
                    loss = task.loss(student(batch).logits, batch["target"])
                scaler.scale(loss / case.accumulate / case.ranks).backward()
        scaler.unscale_(optimizer)
        if rule is not None:
            rule.clip(student.named_parameters(), step=step)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return flat(student).cpu()


def moved(batch: Batch, device: str) -> Batch:
    """The batch on a device."""
    found: Batch = move_data_to_device(batch, torch.device(device))
    return found
