"""Writes down what a run is, once it really runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lightning_distill.callbacks.best_checkpoint import best_scores, instead_of
from lightning_distill.cli.loggers import HistoryLogger
from lightning_distill.cli.run_folder import RunFolder
from lightning_distill.cli.steady_wandb import SteadyWandbLogger
from lightning_distill.cli.wandb_sync import first_step
from lightning_distill.errors import printable
from lightning_distill.security.secrets import redacted, redacted_values


class RunRecord(Callback):
    """Commits the run folder on the first step, and sends the config to the loggers.

    Args:
        folder: Of the run.
        config: Text of config.yaml.
        words: The command line.
        loggers: Those of the run; a resumed run's history is rewound to the step it starts from.
    """

    def __init__(
        self, folder: RunFolder, config: str, words: Sequence[str], loggers: Sequence[Logger]
    ) -> None:
        self.folder, self.config, self.words = folder, config, words
        self._told = False
        self._rows: int | None = None
        self.history = [logger for logger in loggers if isinstance(logger, HistoryLogger)]
        self.wandb = [logger for logger in loggers if isinstance(logger, WandbLogger)]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let loggers have hyperparameters without the secrets in them."""
        for part in (pl_module, getattr(trainer, "datamodule", None)):
            # What Lightning hands to loggers before training; the module's own hyperparameters stay.
            given = getattr(part, "_hparams_initial", None)
            if given:
                part._hparams_initial = type(given)(redacted_values(dict(given)))  # type: ignore[union-attr]

    def state_dict(self) -> dict[str, Any]:
        """How long the history is, so that a run that goes on from here can drop what came after."""
        return {"rows": self.history[0].rows if self.history else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """How long it was."""
        self._rows = state_dict["rows"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say once where early stopping waits for a metric that nobody logs."""
        if trainer.sanity_checking or self._told:
            return
        self._told = True
        for stopping in trainer.early_stopping_callbacks:
            # Of one that the checkpoint monitors too, `BestCheckpoint` speaks.
            known = {c.monitor for c in trainer.checkpoint_callbacks} | trainer.callback_metrics.keys()  # type: ignore[attr-defined]
            of_validation = stopping.monitor.startswith("val/")  # others may come later
            if of_validation and not stopping.strict and stopping.monitor not in known:
                logged = instead_of(stopping.monitor, trainer.callback_metrics)
                rank_zero_warn(
                    f"nothing logs {stopping.monitor!r}, so nothing stops training early; {logged}"
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is set up and validation has been tried: the run exists."""
        details: dict[str, Any] = {"command": redacted_values(["lightning-distill", *self.words])}
        if self.wandb:
            details["wandb_id"] = self.wandb[0].version
        self.folder.commit(self.config, details)
        if self.folder.resume:
            self._go_on_in_wandb()
            rows = self._rows if trainer.ckpt_path else 0
            for history in self.history:
                if rows is not None:
                    history.rewind(rows)
        for logger in trainer.loggers:
            if not isinstance(logger, HistoryLogger):  # config.yaml lies beside it
                _send(logger, self.config)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell W&B the best value of each metric that chose a checkpoint: its own summary has the last."""
        for logger in self.wandb:
            if isinstance(logger, SteadyWandbLogger):
                logger.summarise({f"best/{name}": score for name, score in best_scores(trainer).items()})

    def _go_on_in_wandb(self) -> None:
        rows = self.history[0].rows if self.history else 0
        for logger in self.wandb:
            if isinstance(logger, SteadyWandbLogger):
                logger.first_step = first_step(logger.experiment, rows)


def _send(logger: Logger, config: str) -> None:
    """MLflow refuses other values than those of before; no training is to end by that."""
    try:
        logger.log_hyperparams(yaml.safe_load(config))
    except Exception as error:  # whatever a logger raises
        told = printable(redacted(f"{type(error).__name__}: {error}"), 300)
        rank_zero_warn(f"{type(logger).__name__} does not take the config: {told}")
