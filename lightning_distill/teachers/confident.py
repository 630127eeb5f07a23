"""Several teachers, of whom those that are sure count more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.structures import Batch
from lightning_distill.teachers.base import Teacher
from lightning_distill.teachers.group_base import TeacherGroup


class ConfidentTeacher(TeacherGroup):
    """p_i = sum_k w_ik p_ik with w_i = softmax over k of -H(p_ik) / tau, H the entropy in nats.

    For each sample the teacher whose answer has the least entropy counts most. An overconfident teacher is
    believed too much: calibrate it first. What its logits, embedding, features and layers are is said at
    `TeacherGroup`; the teachers are called 0, 1, ...

    Args:
        teachers: Who answers.
        tau: Nats, above 0. Small: the surest teacher alone; large: the mean of all.

    Raises:
        ConfigError: If tau is not a positive number.
        TeacherError: If the teachers do not go together.

    The rule is our own, and needs no labels.
    """

    def __init__(self, teachers: Sequence[Teacher], tau: float = 0.5) -> None:
        super().__init__({str(at): teacher for at, teacher in enumerate(teachers)})
        if not (math.isfinite(tau) and tau > 0):
            raise ConfigError(
                where="ConfidentTeacher.tau", found=tau, expected="a positive number of nats", fix="try 0.5"
            )
        self.tau = tau

    def log_weights(self, log_probabilities: Tensor, batch: Batch) -> Tensor:
        """By entropy."""
        terms = log_probabilities.exp() * log_probabilities.clamp(min=-1e4)  # 0 * -inf is 0 here
        return (terms.sum(dim=-1) / self.tau).log_softmax(dim=0)
