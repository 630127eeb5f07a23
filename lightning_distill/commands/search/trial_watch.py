"""Tells an Optuna trial of each validation, and ends the training where it is not worth going on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

if TYPE_CHECKING:
    import optuna


class TrialWatch(Callback):
    """Reports a metric after every validation.

    A training that the study's pruner stops ends as one that early stopping ends: its checkpoints, its
    metrics and its student stay.

    Args:
        trial: Of the training.
        metric: Name of what is reported.
    """

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self.trial, self.metric = trial, metric
        self.pruned = False
        """Whether the pruner has stopped it."""
        self._validations = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and stop."""
        value = trainer.callback_metrics.get(self.metric)
        if trainer.sanity_checking or value is None:
            return
        self._validations += 1
        self.trial.report(float(value), self._validations)
        if self.trial.should_prune():
            self.pruned = trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were, for a training that is gone on with."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """How many there were."""
        self._validations = state_dict["validations"]
