"""A trained model that no longer changes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers.base import Teacher


class FrozenTeacher(Teacher):
    """A `MultimodalModel` in eval mode, without gradient, whatever the user calls.

    Args:
        model: The trained model. It is frozen in place: its parameters no longer require a gradient.

    In a config, a model saved by an earlier run is

        teacher:
          class_path: lightning_distill.teachers.FrozenTeacher
          init_args:
            model: {class_path: lightning_distill.export.load_student, init_args: {folder: RUN/student}}
    """

    def __init__(self, model: MultimodalModel) -> None:
        self._model = model.eval().requires_grad_(False)
        self._parts = list(model.modules())
        self.num_classes = model.num_classes
        self.classes = model.classes
        self.requirements = model.requirements
        self.preprocessing = model.preprocessing

    @property
    def model(self) -> MultimodalModel:
        """The model, in eval mode."""
        for part in self._parts:
            part.training = False  # somebody may hold the model and have called train() on a part of it
        return self._model

    def __call__(self, batch: Batch) -> ModelOutput:
        """Answer for a batch under `no_grad` (not inference mode, whose tensors autograd refuses)."""
        with torch.no_grad():
            return self.model(batch)

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self._model.to(device)

    def tensors(self) -> Iterator[Tensor]:
        """The model's parameters and buffers."""
        return chain(self._model.parameters(), self._model.buffers())
