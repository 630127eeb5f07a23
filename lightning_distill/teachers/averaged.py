"""Several teachers, and the mean of what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.structures import Batch
from lightning_distill.teachers.base import Teacher
from lightning_distill.teachers.group_base import TeacherGroup


class AveragedTeacher(TeacherGroup):
    """p_i = sum_k w_k softmax(t_ik) / sum_k w_k: the weighted mean of the teachers' probabilities.

    Every sample must have what each teacher reads; where not, see `ModalityTeachers`. What its logits,
    embedding, features and layers are is said at `TeacherGroup`; the teachers are called 0, 1, ...

    Args:
        teachers: Who answers.
        weights: One for each, 0 or more; None weighs all alike.

    Raises:
        ConfigError: If the weights are not such numbers.
        TeacherError: If the teachers do not go together.

    Source: Hinton et al. (1503.02531), section 1, where an ensemble's mean is the soft target.
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float] | None = None) -> None:
        super().__init__({str(at): teacher for at, teacher in enumerate(teachers)})
        values = [1.0] * len(teachers) if weights is None else list(weights)
        finite = all(math.isfinite(w) and w >= 0 for w in values)
        if len(values) != len(teachers) or not finite or not any(values):
            raise ConfigError(
                where="AveragedTeacher.weights",
                found=values,
                expected=f"{len(teachers)} numbers of 0 or more, not all of them 0",
                fix="leave them out to weigh all alike",
            )
        self._log_weights = (torch.tensor(values, dtype=torch.float64) / sum(values)).log()

    def log_weights(self, log_probabilities: Tensor, batch: Batch) -> Tensor:
        """The same for every sample."""
        return self._log_weights[:, None].to(log_probabilities)
