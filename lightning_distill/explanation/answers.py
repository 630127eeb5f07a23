"""What a run's models say of the labelled samples of a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lightning_distill import checks, evaluation_checks
from lightning_distill.data import MultimodalDataModule
from lightning_distill.explanation.asking import Said, ask
from lightning_distill.model import MultimodalModel
from lightning_distill.tasks import Classification
from lightning_distill.teachers import Teacher

STUDENT, TEACHER, BASELINE = "student", "teacher", "baseline"
"""Keys of `Answers.probabilities`; the student is always there."""


@dataclass(frozen=True)
class Answers:
    """Probabilities of every model for the same samples, in the order of the rows.

    Attributes:
        split: "val" or "test".
        rows: Row numbers of the data source, int64 "samples".
        sample_id: int64 "samples".
        target: Class indices, int64 "samples".
        probabilities: student, teacher, baseline -> float32 "samples classes".
        classes: Names of the classes.
    """

    split: str
    rows: Tensor
    sample_id: Tensor
    target: Tensor
    probabilities: dict[str, Tensor]
    classes: tuple[str, ...]


def answers(
    models: Mapping[str, MultimodalModel | Teacher], data: MultimodalDataModule, split: str = "test"
) -> Answers:
    """Ask every model about every labelled sample of a split that each of them can read.

    A teacher is asked as in training: with inputs of its own where the data have such, and with its classes
    put into the student's order.

    Args:
        models: student, teacher, baseline -> what answers; the student is needed.
        data: Of the run, with class indices as targets.
        split: "val" or "test".

    Raises:
        ConfigError: If no sample of the split has a label, a model does not fit the data, the targets are no
            class indices, or the teacher changes during training.
    """
    evaluation_checks.split_is_known(split, "answers")
    checks.target_fits(Classification(), data, models[STUDENT].num_classes)
    return answers_of(ask(models, data, split), split, data.classes)


def answers_of(said: Said, split: str, classes: tuple[str, ...]) -> Answers:
    """The same, from logits that are there.

    Args:
        said: Of classifiers.
        split: Which was asked about.
        classes: Names of the classes.
    """
    probabilities = {name: logits.softmax(dim=1) for name, logits in said.logits.items()}
    return Answers(split, said.rows, said.sample_id, said.target, probabilities, tuple(classes))
