"""The student's own running mean as its teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers.base import ModelTeacher


class EmaTeacher(ModelTeacher):
    """theta'_t = a_t theta'_{t-1} + (1 - a_t) theta_t after each optimizer step t = 1, 2, ...

    theta are the student's parameters, theta'_0 those it starts with, and a_t =
    min(decay, 1 - 1/(t + 1)) with warm-up, else a_t = decay. Buffers, such as the statistics of batch
    normalisation, are copied. It is in eval mode, and its state goes into the checkpoint. A strategy that
    shards the student's parameters (FSDP) cannot be used with it.

    Args:
        decay: In [0, 1). 0.999 forgets in about a thousand steps.
        warmup: Begin as the plain mean of the parameters so far, which a random start leaves soon.

    Raises:
        ConfigError: If the decay is out of range.
        TeacherError: If it is asked anything before the training has begun.

    Source: Tarvainen and Valpola, Mean teachers are better role models (1703.01780), section 2; the
    warm-up is that of the authors' code. There, student and teacher also see different noise: put
    the teacher's processors into an `OwnView`.
    """

    changes = True

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(
                where="EmaTeacher.decay", found=decay, expected="0 or more, and below 1", fix="try 0.999"
            )
        self.decay, self.warmup = decay, warmup
        self._begun = False

    def begin(self, student: nn.Module) -> None:
        """Copy the student, the first time."""
        if self._begun:
            return
        assert isinstance(student, MultimodalModel)
        self._embedding = None
        self._freeze(copy.deepcopy(student))
        self._begun = True
        self.num_classes, self.classes = student.num_classes, student.classes
        self.requirements, self.preprocessing = student.requirements, student.preprocessing

    def after_step(self, student: nn.Module, step: int) -> None:
        """Follow the student."""
        decay = min(self.decay, 1 - 1 / (step + 1)) if self.warmup else self.decay
        ours, theirs = list(self.model.parameters()), list(student.parameters())
        update = get_ema_multi_avg_fn(decay)
        update(ours, [p.detach() for p in theirs], torch.tensor(step))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for mine, its in zip(self.model.buffers(), student.buffers(), strict=True):
                mine.copy_(its)

    def answer(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """What the mean student says."""
        output: ModelOutput = model(batch)
        return output

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged model."""
        return dict(self.model.state_dict()) if self._begun else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up an averaged model."""
        self.model.load_state_dict(state)

    def __getattr__(self, name: str) -> Any:
        # Reached only for what `begin` sets.
        if name in ("num_classes", "_model", "_parts", "_extractor"):
            raise TeacherError(
                where="EmaTeacher",
                found=f"a question ({name.strip('_')}) before the training has begun",
                expected="a call of begin(student) first, as DistillationModule makes at setup",
                fix="use it as the teacher of a DistillationModule; it cannot be part of a group",
            )
        raise AttributeError(name)
