"""Values that are not finite, put into one training step; and what the step must not have changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_distill.clipping import ClipRule, PerPattern, ValueClip
from lightning_distill.errors import NonFiniteError
from lightning_distill.losses import LogitKD
from lightning_distill.module import DistillationModule
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.tasks import Regression
from lightning_distill.teachers import FrozenTeacher
from tests.builders import VectorSource, make_data, make_model, make_trainer, same_bits
from tests.module.parts import TargetSource, numbers
from tests.shelves import build, concrete

_NAMED = {PerPattern: {"rules": {"encoders.*": ValueClip(0.5)}}}
RULES: list[Callable[[], ClipRule | None]] = [
    lambda: None,
    *(partial(build, cls, **_NAMED.get(cls, {})) for cls in concrete("clipping")),
]
"""No rule, and every rule of the shelf."""
BAD = (math.nan, math.inf, -math.inf)


class Term(LogitKD):
    """A term whose value is not finite in one step; detached, it has no gradient there."""

    def __init__(self, detached: bool = False) -> None:
        super().__init__()
        self.bad: float | None = None
        self.detached = detached

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        value = super().forward(student, teacher, batch)
        if self.bad is None:
            return value
        return torch.tensor(self.bad) if self.detached else value + self.bad


def state_of(trainer: Trainer, module: DistillationModule) -> dict[str, Tensor]:
    """Weights, the optimizer's state and the rule's history."""
    found: dict[str, Tensor] = dict(module.named_parameters())
    if module.clip_rule is not None:
        found |= {f"rule.{n}": x for n, x in module.clip_rule.state_dict().items() if isinstance(x, Tensor)}
    for i, state in enumerate(trainer.optimizers[0].state.values()):
        found |= {f"optimizer.{i}.{n}": x for n, x in state.items() if isinstance(x, Tensor)}
    return {name: x.detach().clone() for name, x in found.items()}


@dataclass
class Inject(Callback):
    """Does it in some batches, and keeps the state before each.

    Args:
        steps: Numbers of batches.
        do: Spoils a batch, or what it meets.
        undo: After each batch.
    """

    steps: tuple[int, ...]
    do: Callable[[DistillationModule, Batch], None]
    undo: Callable[[], None] = lambda: None
    before: list[dict[str, Tensor]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.undo()
        self.before.append(state_of(trainer, pl_module))
        self.batches.append(batch)
        if trainer.fit_loop.total_batch_idx in self.steps:
            self.do(pl_module, batch)


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(same_bits(one[name], other[name]) for name in one)


@dataclass
class Outcome:
    """What came of a training.

    Attributes:
        error: That ended it.
        inject: With the states before each batch.
        trainer: Afterwards.
        module: Afterwards.
        saved: The checkpoints, by step.
    """

    error: NonFiniteError | None
    inject: Inject
    trainer: Trainer
    module: DistillationModule
    saved: dict[int, dict[str, Any]]


def train(
    folder: Path, module: DistillationModule, inject: Inject, source: Any = None, **options: Any
) -> Outcome:
    """Train for an epoch of four steps, with a checkpoint after each."""
    keep = ModelCheckpoint(folder / "kept", "{step}", every_n_train_steps=1, save_top_k=-1)
    kept = {"callbacks": [inject, keep], "enable_checkpointing": True, "limit_val_batches": 0}
    trainer, error = make_trainer(folder, **(kept | options)), None
    try:
        trainer.fit(module, make_data(source or VectorSource(train=32)))
    except NonFiniteError as found:
        error = found
    saved = [torch.load(path, weights_only=True) for path in (folder / "kept").glob("*.ckpt")]
    return Outcome(error, inject, trainer, module, {each["global_step"]: each for each in saved})


def has_bad(checkpoint: dict[str, Any]) -> bool:
    return any(
        not x.isfinite().all() for n, x in checkpoint["state_dict"].items() if not n.startswith("clip_rule")
    )


def distilled(rule: ClipRule | None, **options: Any) -> DistillationModule:
    """A student of one modality, a teacher of two; the teacher's layers run once a step."""
    defaults: dict[str, Any] = {
        "student": make_model(("a",)),
        "teacher": FrozenTeacher(make_model()),
        "losses": {"kd": Term()},
        "clip_rule": rule,
        "optimizer": partial(torch.optim.AdamW, lr=1e-2),
    }
    return DistillationModule(**(defaults | options))


def regressing(rule: ClipRule | None) -> tuple[DistillationModule, TargetSource]:
    """A regression, whose targets may be anything."""
    source = TargetSource(np.nan_to_num(numbers()))
    module = DistillationModule(make_model(), task=Regression(), clip_rule=rule)
    return module, source


def in_layer(
    model: nn.Module, path: str, row: int, bad: float
) -> tuple[Callable[..., None], Callable[[], None]]:
    """What spoils one sample at the output of a layer, and what stops that."""
    handles: list[Any] = []

    def spoil(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[row, 0] = bad
        return output

    def undo() -> None:
        while handles:
            handles.pop().remove()

    return lambda *_: handles.append(model.get_submodule(path).register_forward_hook(spoil)), undo


class Last(Callback):
    """Weights before each batch."""

    weights: dict[str, Tensor]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.weights = {n: p.detach().clone() for n, p in pl_module.named_parameters()}
