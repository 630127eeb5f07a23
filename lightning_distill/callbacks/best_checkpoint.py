"""A ModelCheckpoint that survives a metric nobody logs, and a folder that was moved."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lightning_distill.errors import nearest


def instead_of(monitor: str, logged: Iterable[str]) -> str:
    """What to monitor where nothing logs a metric.

    Args:
        monitor: Its name.
        logged: Names of the metrics that there are.

    >>> instead_of("val/los", ["train/loss", "val/loss"])
    "to choose, monitor one of val/loss; did you mean 'val/loss'?"
    """
    names = sorted(logged)
    stage = [name for name in names if name.startswith("val/")] or names
    added = ", or give trainer.callbacks the validator" if monitor.startswith("val/validator/") else ""
    return f"to choose, monitor one of {', '.join(stage)}{added}{nearest(monitor, names)}"


def best_scores(trainer: Trainer) -> dict[str, float]:
    """Metric -> its best value so far, for each that chooses a checkpoint.

    Args:
        trainer: With its callbacks.
    """
    found = {}
    for checkpoint in trainer.checkpoint_callbacks:
        monitor, score = getattr(checkpoint, "monitor", None), getattr(checkpoint, "best_model_score", None)
        if monitor is not None and score is not None:
            found[str(monitor)] = float(score)
    return found


class BestCheckpoint(ModelCheckpoint):
    """`ModelCheckpoint`, but a monitored metric that is not there costs a warning instead of the run.

    It then keeps the checkpoint of the last epoch. After a resume it goes on comparing with the best score
    so far even where the folder has moved since. Arguments are those of `ModelCheckpoint`.
    """

    _key: str | None = None

    @property
    def state_key(self) -> str:
        """That of the metric that was asked for, also once there is another way."""
        return self._key or super().state_key

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the key."""
        super().setup(trainer, pl_module, stage)
        self._key = self.state_key

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fall back where validation did not log the metric."""
        if not trainer.sanity_checking:
            self._fall_back(trainer)
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fall back where there is no validation that could log the metric."""
        if not trainer.enable_validation:
            self._fall_back(trainer)
        super().on_train_epoch_end(trainer, pl_module)

    def _fall_back(self, trainer: Trainer) -> None:
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            return
        rank_zero_warn(
            f"nothing logs {self.monitor!r}, so the best checkpoint will be that of the last epoch; "
            f"{instead_of(self.monitor, trainer.callback_metrics)}"
        )
        self.monitor = None

    def state_dict(self) -> dict[str, Any]:
        """Also whether it waits for a validation to save."""
        return {**super().state_dict(), "waits": self._defer_save_until_validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Look for the remembered files where the checkpoints lie now."""
        super().load_state_dict(self._moved(state_dict))
        self.monitor = state_dict["monitor"]
        self.current_score = state_dict.get("current_score")
        self._defer_save_until_validation = state_dict.get("waits", False)

    def _moved(self, state: dict[str, Any]) -> dict[str, Any]:
        best = Path(str(state.get("best_model_path", "")))
        if self.dirpath is None or not (Path(self.dirpath) / best.name).is_file():
            return state

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        models = {here(path): score for path, score in state.get("best_k_models", {}).items()}
        return {
            **state,
            **{key: here(state.get(key, "")) for key in paths},
            "best_k_models": models,
            "dirpath": self.dirpath,
        }
