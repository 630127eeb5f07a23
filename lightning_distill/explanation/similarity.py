"""How similar the layers of teacher and student are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_distill.data import MultimodalDataModule
from lightning_distill.model import MultimodalModel
from lightning_distill.teachers import Teacher


@dataclass(frozen=True)
class Similarity:
    """Linear CKA of every layer of the student with every layer of the teacher.

    Attributes:
        student: Names of the student's layers, input to output.
        teacher: Of the teacher's.
        values: In [0, 1], float64 "student teacher".
        samples: How many it was measured on.
    """

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    values: Tensor
    samples: int


def similarity(
    student: MultimodalModel,
    teacher: Teacher,
    data: MultimodalDataModule,
    split: str = "test",
    most: int = 512,
) -> Similarity:
    """Compare layers on samples that have every modality both read, or on any where there are none.

    Args:
        student: Of the run.
        teacher: Of the run.
        data: Of the run.
        split: "val" or "test".
        most: Samples, from the start of the split.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited (1905.00414), section 3.
    """
    raise NotImplementedError
