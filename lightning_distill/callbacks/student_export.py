"""Saves the trained student, fit to be used without the run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_distill import checks
from lightning_distill.checkpoints import read_checkpoint
from lightning_distill.export import check_replaceable, save_student
from lightning_distill.model import MultimodalModel
from lightning_distill.sharding import whole
from lightning_distill.structures import Outputs

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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See before training that the student can be saved.

        Raises:
            ConfigError: If something else is in its place.
        """
        if stage == "fit" and trainer.is_global_zero:
            check_replaceable(self.folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, on one process."""
        student = getattr(pl_module, "student", None)
        if getattr(trainer, "fast_dev_run", 0) or not isinstance(student, MultimodalModel):
            return
        split = checks.shards(trainer)
        weights = _student_of(trainer.strategy.lightning_module_state_dict()) if split else None
        if not trainer.is_global_zero:
            return
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if best and split:
            weights = _weights_in(Path(best), weights or {})
        elif best:
            student = copy.deepcopy(student).cpu()
            student.load_state_dict(_weights_in(Path(best), {}))
        processors = getattr(getattr(trainer, "datamodule", None), "processors", None)
        outputs = getattr(getattr(pl_module, "task", None), "outputs", None)
        save_student(
            student,
            self.folder,
            self.config,
            weights,
            processors if isinstance(processors, Mapping) else None,
            outputs if isinstance(outputs, Outputs) else None,
        )


def _student_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The student's state dict, whole; where it is split, all processes take part."""
    return {k.removeprefix(_PREFIX): whole(v) for k, v in state.items() if k.startswith(_PREFIX)}


def _weights_in(checkpoint: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The student's state dict in a checkpoint: a file, or the folder of a distributed one."""
    if checkpoint.is_dir():
        from torch.distributed.checkpoint.state_dict_loader import load

        state = {"state_dict": {_PREFIX + name: torch.empty_like(x) for name, x in like.items()}}
        load(state, checkpoint_id=checkpoint, no_dist=True)
        return _student_of(state["state_dict"])
    return _student_of(read_checkpoint(checkpoint)["state_dict"])
