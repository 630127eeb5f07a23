"""What a training is judged by."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_distill.errors import ConfigError
from lightning_distill.range_finding.trials import Choice, Goal, Trial


class BestValue(Callback):
    """Keeps the best finite value of a metric, and the task's validation loss beside it.

    Args:
        goal: Names the metric.

    Raises:
        ConfigError: After the first validation, if nobody logs it.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal, self.step = goal, -1
        self._found: tuple[float | None, float | None] = (None, None)

    @property
    def found(self) -> tuple[float | None, float | None]:
        """Value and loss; None where they were never finite.

        Raises:
            ConfigError: If there was no validation.
        """
        if self.step < 0:
            raise ConfigError(
                where="ClipRangeFinder",
                found="a training without validation",
                expected="validation data to judge it by",
                fix="give the data a validation split, and set no trainer.limit_val_batches of 0",
            )
        return self._found

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare."""
        self.step = trainer.global_step
        told = trainer.callback_metrics
        if self.goal.monitor not in told:
            raise ConfigError(
                where="ClipRangeFinder.goal",
                found=f"{self.goal.monitor}, which nobody logs",
                expected=f"one of {', '.join(sorted(n for n in told if n.startswith('val/')))}",
                fix="name another, or give the data a validation split",
            )
        value, loss = told[self.goal.monitor], told.get("val/task")
        if not torch.isfinite(value):
            return
        now = float(value), None if loss is None or not torch.isfinite(loss) else float(loss)
        trials = [Trial(Choice(), 0.0, *pair) for pair in (self._found, now)]
        if self.goal.score(trials[1]) > self.goal.score(trials[0]):
            self._found = now
