"""Saves the trained student, fit to be used without the run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_distill.export import save_student
from lightning_distill.model import MultimodalModel

_PREFIX = "student."


class StudentExport(Callback):
    """At the end of `fit`, writes the best checkpoint's student with `save_student`.

    Without a checkpoint it writes the student as it is. Modules whose `student` is no `MultimodalModel` are
    left alone.

    Args:
        folder: Where to.
        config: `class_path` and `init_args` that make the student, as in config.yaml.
    """

    def __init__(self, folder: Path | str, config: Mapping[str, Any]) -> None:
        self.folder, self.config = Path(folder), config

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, on one process."""
        student = getattr(pl_module, "student", None)
        trial = getattr(trainer, "fast_dev_run", 0)
        if trial or not trainer.is_global_zero or not isinstance(student, MultimodalModel):
            return
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if best:
            student = copy.deepcopy(student).cpu()
            weights = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
            student.load_state_dict(
                {k.removeprefix(_PREFIX): v for k, v in weights.items() if k.startswith(_PREFIX)}
            )
        save_student(student, self.folder, self.config)
