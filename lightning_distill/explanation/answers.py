"""What a run's models say of the labelled samples of a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lightning_distill.data import MultimodalDataModule
from lightning_distill.model import MultimodalModel
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
    """Ask every model about every labelled sample of a split.

    Args:
        models: student, teacher, baseline -> what answers; the student is needed.
        data: Of the run.
        split: "val" or "test".

    Raises:
        ConfigError: If no sample of the split has a label.
    """
    raise NotImplementedError
