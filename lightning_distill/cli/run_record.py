"""Writes down what a run is, once it really runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger

from lightning_distill.cli.loggers import HistoryLogger
from lightning_distill.cli.run_folder import RunFolder


class RunRecord(Callback):
    """Commits the run folder on the first step, and sends the config to W&B.

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
        self.history = [logger for logger in loggers if isinstance(logger, HistoryLogger)]
        self.wandb = [logger for logger in loggers if isinstance(logger, WandbLogger)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is set up and validation has been tried: the run exists."""
        details: dict[str, Any] = {"command": ["lightning-distill", *self.words]}
        if self.wandb:
            details["wandb_id"] = self.wandb[0].version
        self.folder.commit(self.config, details)
        if self.folder.resume:
            for history in self.history:
                history.rewind(trainer.global_step)
        for logger in self.wandb:
            logger.log_hyperparams(yaml.safe_load(self.config))
