"""The student and the teacher's answers as artifacts of Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lightning_distill.callbacks.best_checkpoint import best_scores
from lightning_distill.callbacks.wandb_staging import staged_in
from lightning_distill.checkpoints import read_checkpoint
from lightning_distill.errors import printable
from lightning_distill.teachers import CachedTeacher

if TYPE_CHECKING:
    from wandb import Artifact

_METRICS: Final = "lightning_distill_validation"
"""Key of a checkpoint: metrics of the validation before it was saved."""


class WandbArtifacts(Callback):
    """At the end of `fit`, gives W&B the student's folder, and says where the teacher's answers lie.

    The student is an artifact of type `model`, with the aliases `best` and `latest`, and with metadata:
    modalities, classes, the metrics of the validation that its checkpoint was saved after, and the best value
    of what chose it. The answers that a `CachedTeacher` keeps are one of type `dataset`:
    references to the files, which stay where they are. What fails in it is told, and does not end a
    training. It comes after `StudentExport`, which writes the folder.

    Args:
        student: Folder of the student; False sends no weights.
    """

    def __init__(self, student: Path | str | Literal[False]) -> None:
        self.student = None if student is False else Path(student)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the metrics with the weights: at the end only those of the last epoch are there."""
        checkpoint[_METRICS] = _validation(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send both, as far as they are there."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not loggers or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        try:
            for logger in loggers:
                with staged_in(logger.experiment):
                    for artifact, aliases in self._artifacts(trainer, pl_module, logger):
                        logger.experiment.log_artifact(artifact, aliases=aliases)
        except Exception as error:  # training has ended well, and the folders lie where they are
            told = printable(f"{type(error).__name__}: {error}", 300)
            rank_zero_warn(f"Weights & Biases took no artifacts: {told}")

    def _artifacts(
        self, trainer: Trainer, module: LightningModule, logger: WandbLogger
    ) -> list[tuple[Artifact, Sequence[str]]]:
        found: list[tuple[Artifact, Sequence[str]]] = []
        if self.student is not None and self.student.is_dir():
            found.append((_student(self.student, trainer, module, logger), ("best", "latest")))
        teacher = getattr(module, "teacher", None)
        if isinstance(teacher, CachedTeacher) and teacher.cache.folder.is_dir():
            found.append((_answers(teacher), ("latest",)))
        return found


def _student(folder: Path, trainer: Trainer, module: LightningModule, logger: WandbLogger) -> Artifact:
    import wandb

    student: Any = module.student
    metadata = {
        "metrics": _metrics(trainer),
        "best": best_scores(trainer),
        "modalities": list(student.modalities),
        "classes": list(student.classes or ()),
    }
    artifact = wandb.Artifact(f"student-{logger.version}", type="model", metadata=metadata)
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = path.relative_to(folder).as_posix()
        # A copy, in the folder of the session: the next session replaces the student, and an offline one is
        # uploaded later. None in W&B's cache, in the user's home. `add_dir` would print.
        artifact.add_file(str(path), name=name, policy="mutable", skip_cache=True)
    return artifact


def _metrics(trainer: Trainer) -> dict[str, float]:
    """Those of the student that is saved; none where its checkpoint does not tell them."""
    best = str(getattr(trainer.checkpoint_callback, "best_model_path", ""))
    if not best:
        return _validation(trainer)
    found: dict[str, float] = read_checkpoint(Path(best)).get(_METRICS, {}) if Path(best).is_file() else {}
    return found


def _validation(trainer: Trainer) -> dict[str, float]:
    return {name: float(x) for name, x in trainer.callback_metrics.items() if name.startswith("val/")}


def _answers(teacher: CachedTeacher) -> Artifact:
    import wandb

    folder = teacher.cache.folder
    artifact = wandb.Artifact(
        f"teacher-cache-{folder.name}", type="dataset", metadata={"kind": "answers of a teacher"}
    )
    # Without checksums, which would read all of it: the cache has its own.
    artifact.add_reference(folder.resolve().as_uri(), checksum=False)
    return artifact
