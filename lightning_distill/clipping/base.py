"""The contract of a clip rule: it edits gradients in place, between backward and optimizer step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients, Parameters, gradients_of
from lightning_distill.history import History
from lightning_distill.schedules import Schedule, value_at


@dataclass(frozen=True)
class ClipReport:
    """What a rule did.

    Attributes:
        values: Name -> 0-d tensor to log, on the gradients' device: what the rule has found anyway.
        skip: 0-d bool tensor: this optimizer step should not be taken; None where the rule never says so.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    skip: Tensor | None = None


class ClipRule(History, ABC):
    """Edits `.grad` in place.

        rule = ValueClip(0.01)
        loss.backward()
        rule.clip(model.named_parameters())
        optimizer.step()

    A subclass implements `edit`. History lives in buffers and so in checkpoints; it is float32 whatever the
    model is. It moves once an optimizer step, and nothing that is not finite enters it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last_step: int | None = None

    def clip(
        self,
        parameters: Parameters | Mapping[str, nn.Parameter],
        *,
        step: int | None = None,
        epoch: int = 0,
        split_over: Any = None,
    ) -> ClipReport:
        """Clip the gradients of `parameters`; those without a gradient are passed over.

        Args:
            parameters: What one optimizer steps; gradients must be unscaled.
            step: Optimizer steps taken. Schedules follow it, and a second call in one step (LBFGS) leaves
                history as it is. Where not given, every call is a step of its own and schedules stay at 0.
            epoch: Epochs completed.
            split_over: Process group over which plain tensors are split, as under FSDP1.

        Returns:
            What was done; an empty report where there is no gradient at all.

        Raises:
            ConfigError: If a gradient is sparse or complex.
        """
        if step is None:
            self._last_step = None
        gradients = gradients_of(parameters, step or 0, epoch, split_over=split_over)
        return self.clip_gradients(gradients) if len(gradients) else ClipReport()

    def clip_gradients(self, gradients: Gradients) -> ClipReport:
        """`clip`, where somebody has looked the gradients up already.

        Args:
            gradients: At least one, with the step they are of.
        """
        fresh = gradients.step != self._last_step
        self._last_step = gradients.step
        with torch.no_grad():
            return self.edit(gradients if fresh else replace(gradients, fresh=False))

    def start(self) -> None:
        """A new training begins, whose first step is new; history stays."""
        self._last_step = None

    @abstractmethod
    def edit(self, gradients: Gradients) -> ClipReport:
        """Edit gradients in place, without gradient tracking.

        Args:
            gradients: At least one. Only `local` is edited.
        """


def joined(reports: Mapping[str, ClipReport]) -> ClipReport:
    """What several rules did, as one report: a step is skipped where any of them says so.

    Args:
        reports: Label -> report; values are called "<label>/<name>".
    """
    values = {
        f"{label}/{name}": value for label, report in reports.items() for name, value in report.values.items()
    }
    skips = [report.skip for report in reports.values() if report.skip is not None]
    return ClipReport(values, torch.stack(skips).any() if skips else None)


def check_positive(value: float, where: str, example: float) -> None:
    """Refuse a range that is not a positive number.

    Args:
        value: The range, or what its schedule gives now.
        where: Such as "ValueClip.epsilon".
        example: A value to try.

    Raises:
        ConfigError: If it is negative, 0, infinite or NaN.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(where=where, found=value, expected="a positive number", fix=f"try {example}")


def range_at(value: float | Schedule, gradients: Gradients, where: str, example: float) -> float:
    """The range in this step.

    Args:
        value: A number, or how it changes.
        gradients: They tell the step.
        where: Such as "ValueClip.epsilon".
        example: A value to try.

    Raises:
        ConfigError: If it is not a positive number.
    """
    now = value_at(value, gradients.step, gradients.epoch)
    check_positive(now, f"{where} at step {gradients.step}, epoch {gradients.epoch}", example)
    return now
