"""A teacher for each modality, heard where the sample has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers.base import Teacher
from lightning_distill.teachers.group_base import TeacherGroup


class ModalityTeachers(TeacherGroup):
    """p_i = mean of softmax(t_ik) over the teachers k whose modality sample i has.

    A sample with none of the modalities is an error on the CPU (as for every teacher); on a GPU, where that
    is not looked at, all teachers count alike. What its logits, embedding, features and layers are is said at
    `TeacherGroup`; each teacher is called as its modality, and what it gives for a sample without that
    modality is zero.

    Args:
        teachers: modality -> teacher that reads at least that one.

    Raises:
        TeacherError: If the teachers do not go together.
    """

    def __init__(self, teachers: Mapping[str, Teacher]) -> None:
        super().__init__(teachers)

    def log_weights(self, log_probabilities: Tensor, batch: Batch) -> Tensor:
        """The same for all that are heard."""
        heard = torch.stack([batch["present"][m] for m in self.teachers])
        heard = heard | ~heard.any(dim=0)
        return (heard.to(log_probabilities) / heard.sum(dim=0)).log()

    def answers(self, batch: Batch) -> dict[str, ModelOutput]:
        """Each teacher's answer, zero where it is not heard."""
        return {m: self._answer(m, teacher, batch) for m, teacher in self.teachers.items()}

    @staticmethod
    def _answer(modality: str, teacher: Teacher, batch: Batch) -> ModelOutput:
        there = batch["present"][modality]
        # It must say something about the others too, which a model with nothing to read refuses to do.
        present = {**batch["present"], modality: torch.ones_like(there)}
        output = teacher({**batch, "present": present})

        def kept(x: Tensor) -> Tensor:
            return torch.where(there.view(-1, *[1] * (x.ndim - 1)), x, torch.zeros_like(x))

        return replace(
            output,
            embedding=None if output.embedding is None else kept(output.embedding),
            features={name: kept(x) for name, x in output.features.items()},
            layers={path: kept(x) for path, x in output.layers.items()},
        )
