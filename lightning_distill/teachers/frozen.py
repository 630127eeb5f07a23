"""A trained model of ours that no longer changes."""

from __future__ import annotations

from torch import nn

from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers.base import ModelTeacher


class FrozenTeacher(ModelTeacher):
    """A `MultimodalModel` that answers as it was trained.

    Args:
        model: The trained model. It is frozen in place: its parameters no longer require a gradient.

    In a config, a model saved by an earlier run is

        teacher:
          class_path: lightning_distill.teachers.FrozenTeacher
          init_args:
            model: {class_path: lightning_distill.export.load_student, init_args: {folder: RUN/student}}
    """

    def __init__(self, model: MultimodalModel) -> None:
        super().__init__(model)
        self.num_classes = model.num_classes
        self.classes = model.classes
        self.requirements = model.requirements
        self.preprocessing = model.preprocessing

    @property
    def model(self) -> MultimodalModel:
        """The model, in eval mode."""
        model = super().model
        assert isinstance(model, MultimodalModel)
        return model

    def answer(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """The model's own output."""
        output: ModelOutput = model(batch)
        return output
