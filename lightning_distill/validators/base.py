"""The contract of a validator: how good a model is in a domain whose labels nobody has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_distill.batch_rows import in_target_domain
from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import rows_there
from lightning_distill.ranks import alone
from lightning_distill.structures import ModelOutput, Outputs, labelled_rows, only_rows

_KINDS: Final = {
    "logits": torch.float32,
    "features": torch.float32,
    "teacher": torch.float32,
    "labels": torch.int64,
    "ids": torch.int64,
    "of_target": torch.bool,
}
"""What is kept of each row."""


@dataclass(frozen=True)
class Answers:
    """What was said about the validated rows of one side, source or target, in the order of their ids.

    Attributes:
        logits: float32 "rows classes", the student's.
        features: float32 "rows dim", the layer that the validator reads; "rows 0" where it reads none.
        teacher: float32 "rows classes", the teacher's logits; "rows 0" where the validator needs no teacher.
        labels: int64 "rows"; `UNLABELLED` in every row of the target, whatever the data say.
    """

    logits: Tensor
    features: Tensor
    teacher: Tensor
    labels: Tensor


class TargetValidator(Callback, ABC):
    """Logs `val/validator/<name>` after each validation; higher is always better.

    The value is there for what follows a metric: `ModelCheckpoint(monitor="val/validator/<name>",
    mode="max")`, `EarlyStopping`, `BestCheckpoint`. It is computed on all validation rows of the target
    domains together, on the CPU in at least float32, the same on every process and whatever the order of the
    rows. It needs no label of the target and sees none. It measures in validation only, under `fit` and
    `validate`: nothing is chosen in a test. A validation without a row that it can use logs no value and
    warns.

    It works in a Trainer whose module returns `{"student": ModelOutput, "teacher": ModelOutput or None}` from
    `validation_step`, as `DistillationModule` does, on batches with `in_target_domain`.

    Raises:
        ConfigError: At setup, if the task is no choice of one class, or another validator has the same name;
            in validation, if a batch does not tell its target rows, or there is no teacher where one is
            needed.
    """

    name: ClassVar[str]
    """What it is called where it is logged."""
    needs_teacher: ClassVar[bool] = False
    """Whether it reads the teacher's logits."""
    needs_source: ClassVar[bool] = False
    """Whether it reads the labelled rows of the source domains."""
    layer: str | None = None
    """What it reads of the student beside the logits, as a name for `ModelOutput.at`."""

    def __init__(self) -> None:
        self._kept: list[dict[str, Tensor]] = []

    @abstractmethod
    def score(self, source: Answers, target: Answers) -> Tensor:
        """How good the student seems to be.

        Args:
            source: Labelled rows of the source; no row where `needs_source` is False.
            target: One row or more.

        Returns:
            0-d tensor, higher is better.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that there are classes to speak of, and that no other validator logs the same name."""
        outputs = getattr(getattr(pl_module, "task", None), "outputs", Outputs.CLASSES)
        if outputs is not Outputs.CLASSES:
            raise ConfigError(
                where=type(self).__name__,
                found=f"the task {type(pl_module.task).__name__}: {outputs.value}",
                expected=f"a task with {Outputs.CLASSES.value}",
                fix="leave the validator out, and monitor a metric of the source, such as val/loss",
            )
        others = [c for c in trainer.callbacks if isinstance(c, TargetValidator)]  # type: ignore[attr-defined]
        if [other.name for other in others].count(self.name) > 1:
            raise ConfigError(
                where="trainer.callbacks",
                found=f"more than one validator that logs {self.metric}",
                expected=f"one {type(self).__name__}",
                fix="leave one out; two with other settings are compared in two runs",
            )

    @property
    def metric(self) -> str:
        """Full name of what is logged."""
        return f"val/validator/{self.name}"

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an evaluation that was broken off has left."""
        self._kept = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what is needed of a batch."""
        student, teacher = self._said(outputs)
        of_target = in_target_domain(batch)
        labels = only_rows(batch["target"], ~of_target)  # nothing below this line knows the target's
        nothing = student.logits[:, :0]
        rows = {
            "logits": student.logits,
            "features": nothing if self.layer is None else student.at(self.layer).flatten(1),
            "teacher": nothing if teacher is None else teacher.logits,
            "labels": labels,
            "ids": batch["sample_id"],
            "of_target": of_target,
        }
        used = of_target | labelled_rows(labels) if self.needs_source else of_target
        there = None if self.layer is None else rows_there((self.layer,), batch["present"])
        used = used if there is None else used & there
        self._kept.append({name: x.detach()[used].to("cpu", _KINDS[name]) for name, x in rows.items()})

    def _said(self, outputs: Any) -> tuple[ModelOutput, ModelOutput | None]:
        """Of the student, and of the teacher where one is needed."""
        said = outputs if isinstance(outputs, Mapping) else {}
        student, teacher = said.get("student"), said.get("teacher")
        if not isinstance(student, ModelOutput):
            raise ConfigError(
                where=type(self).__name__,
                found=f"a validation_step that returns {type(outputs).__name__}",
                expected='one that returns {"student": ModelOutput, "teacher": ModelOutput or None}',
                fix="train a DistillationModule, or return what the student says from your validation_step",
            )
        if self.needs_teacher and not isinstance(teacher, ModelOutput):
            raise ConfigError(
                where=type(self).__name__,
                found="a module without a teacher",
                expected="a teacher to agree with",
                fix="give the module a teacher, or choose another validator, such as MutualInformation",
            )
        return student, teacher if self.needs_teacher else None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the value."""
        rows = _everywhere(self._kept, pl_module.device)
        self._kept = []
        source, target = _side(rows, ~rows["of_target"]), _side(rows, rows["of_target"])
        found = {"target": len(target.logits)}
        if self.needs_source:
            found["labelled source"] = len(source.logits)
        if all(found.values()):
            value = self.score(source, target).to(torch.float32)
            # Each process has the same value, but for what CPUs of two kinds round.
            pl_module.log(self.metric, value.to(pl_module.device), sync_dist=True)
        elif not trainer.sanity_checking:
            seen = ", ".join(f"{count} {side} rows" for side, count in found.items())
            rank_zero_warn(f"validation has seen {seen}, so {self.metric} has no value")


def _everywhere(kept: Sequence[Mapping[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """The rows of all batches and processes, in the order of their ids."""
    rows = {name: _joined([some[name] for some in kept], name) for name in _KINDS}
    if not alone():
        rows = {n: _joined([r.cpu() for r in gather_all_tensors(x.to(device))], n) for n, x in rows.items()}
    order = rows["ids"].argsort(stable=True)
    return {name: x[order] for name, x in rows.items()}


def _joined(pieces: Sequence[Tensor], name: str) -> Tensor:
    """One after the other; a process that saw no row does not know how wide one is."""
    some = [piece for piece in pieces if len(piece)]
    narrow = (0, 0) if name in ("logits", "features", "teacher") else (0,)
    return torch.cat(some) if some else torch.empty(narrow, dtype=_KINDS[name])


def _side(rows: Mapping[str, Tensor], side: Tensor) -> Answers:
    return Answers(*(rows[name][side] for name in ("logits", "features", "teacher", "labels")))
