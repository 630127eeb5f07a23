"""How several teachers become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_distill.teachers import AveragedTeacher, ConfidentTeacher, Teacher
from lightning_distill.teachers.group_base import TeacherGroup


class TeacherMean(ABC):
    """Makes one answer of several. A mean of your own is a subclass with `group`."""

    @abstractmethod
    def group(self, teachers: Sequence[Teacher]) -> TeacherGroup:
        """The teachers that answer as one."""


@dataclass(frozen=True)
class ArithmeticMean(TeacherMean):
    """p = sum_k w_k p_k / sum_k w_k, see `AveragedTeacher`.

    Args:
        weights: One a teacher, 0 or more; None weighs all alike.
    """

    weights: Sequence[float] | None = None

    def group(self, teachers: Sequence[Teacher]) -> TeacherGroup:
        """An `AveragedTeacher`."""
        return AveragedTeacher(teachers, self.weights)


@dataclass(frozen=True)
class GeometricMean(TeacherMean):
    """p proportional to prod_k p_k^(w_k / sum_j w_j): a class that one teacher rules out is out.

    Args:
        weights: One a teacher, 0 or more; None weighs all alike.

    Source: Hinton, "Training products of experts by minimizing contrastive divergence" (Neural Computation
    14(8), 2002), section 1, with exponents that add up to 1.
    """

    weights: Sequence[float] | None = None

    def group(self, teachers: Sequence[Teacher]) -> TeacherGroup:
        """A group whose logarithms are averaged."""
        return _Geometric(teachers, self.weights)


@dataclass(frozen=True)
class ConfidentMean(TeacherMean):
    """For each sample the surer teachers count more, see `ConfidentTeacher`.

    Args:
        tau: Nats, above 0.
    """

    tau: float = 0.5

    def group(self, teachers: Sequence[Teacher]) -> TeacherGroup:
        """A `ConfidentTeacher`."""
        return ConfidentTeacher(teachers, self.tau)


class _Geometric(AveragedTeacher):
    def mixed(self, log_probabilities: Tensor, log_weights: Tensor) -> Tensor:
        """Log p = sum_k w_k log p_k, less the logarithm of what that adds up to."""
        # 0 * -inf is 0 here: a teacher without weight rules nothing out.
        counts = ~log_weights.isneginf()
        return torch.where(counts, log_weights.exp() * log_probabilities, 0.0).sum(dim=0).log_softmax(dim=-1)
