"""The student and the teacher's answers as artifacts of Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lightning_distill.callbacks.best_checkpoint import best_scores
from lightning_distill.callbacks.wandb_staging import staged_in
from lightning_distill.errors import printable
from lightning_distill.teachers import CachedTeacher

if TYPE_CHECKING:
    from wandb import Artifact


class WandbArtifacts(Callback):
    """At the end of `fit`, gives W&B the student's folder, and says where the teacher's answers lie.

    The student is an artifact of type `model`, with the aliases `best` and `latest`, and with metrics,
    modalities and classes as metadata. The answers that a `CachedTeacher` keeps are one of type `dataset`:
    references to the files, which stay where they are. What fails in it is told, and does not end a
    training. It comes after `StudentExport`, which writes the folder.

    Args:
        student: Folder of the student.
    """

    def __init__(self, student: Path | str) -> None:
        self.student = Path(student)

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
        if self.student.is_dir():
            found.append((_student(self.student, trainer, module, logger), ("best", "latest")))
        teacher = getattr(module, "teacher", None)
        if isinstance(teacher, CachedTeacher) and teacher.cache.folder.is_dir():
            found.append((_answers(teacher), ("latest",)))
        return found


def _student(folder: Path, trainer: Trainer, module: LightningModule, logger: WandbLogger) -> Artifact:
    import wandb

    student: Any = module.student
    metadata = {
        "metrics": {n: float(x) for n, x in trainer.callback_metrics.items() if n.startswith("val/")},
        "best": best_scores(trainer),
        "modalities": list(student.modalities),
        "classes": list(student.classes or ()),
    }
    artifact = wandb.Artifact(f"student-{logger.version}", type="model", metadata=metadata)
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        # Without a copy in the user's home: a run's student stays. `add_dir` would print.
        artifact.add_file(str(path), name=path.relative_to(folder).as_posix(), policy="immutable")
    return artifact


def _answers(teacher: CachedTeacher) -> Artifact:
    import wandb

    folder = teacher.cache.folder
    artifact = wandb.Artifact(
        f"teacher-cache-{folder.name}", type="dataset", metadata={"kind": "answers of a teacher"}
    )
    # Without checksums, which would read all of it: the cache has its own.
    artifact.add_reference(folder.resolve().as_uri(), checksum=False)
    return artifact
