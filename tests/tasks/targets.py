"""Targets that fit a task, so that a new task is tested without an edit."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.structures import UNKNOWN, UNLABELLED
from lightning_distill.tasks import Task


def kinds(rows: int, outputs: int) -> list[Tensor]:
    """One target of each kind in `Batch`."""
    return [
        torch.arange(rows) % outputs,
        (torch.rand(rows, outputs) > 0.5).to(torch.int8),
        torch.randn(rows, outputs),
    ]


def fits(task: Task, target: Tensor, outputs: int) -> bool:
    """Whether the task takes such targets."""
    try:
        task.check(target, outputs)
    except ConfigError:
        return False
    return True


def target_for(task: Task, rows: int = 5, outputs: int = 3) -> Tensor:
    """A target of the one kind the task takes."""
    (target,) = [t for t in kinds(rows, outputs) if fits(task, t, outputs)]
    return target


def unknown(target: Tensor) -> Tensor:
    """Of the same kind, and nothing is known."""
    value = torch.nan if target.is_floating_point() else UNKNOWN if target.ndim == 2 else UNLABELLED
    return torch.full_like(target, value)
