"""A timm classifier as a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from lightning_distill.encoders import TimmImageEncoder
from lightning_distill.errors import TeacherError
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers.base import ModelTeacher


class TimmTeacher(ModelTeacher):
    """A timm model with its classifier; images are normalised as its weights were trained.

    Args:
        model_name: A timm model such as `resnet50`, or `hf-hub:owner/name`.
        weights: Local folder written by timm's `save_for_hf`; None takes timm's hub.
        modality: Name of the images.
        channels: Of the image.
        classes: Names of its classes, in order, where known.
        embedding: Path of the module whose output is the embedding, such as `backbone.global_pool`.

    Raises:
        ConfigError: If the model is unknown, or the weights cannot be found.
        TeacherError: If it has no classifier, or names and number of classes differ.
    """

    def __init__(
        self,
        model_name: str = "resnet50",
        weights: Path | None = None,
        modality: str = "image",
        channels: int = 3,
        classes: Sequence[str] | None = None,
        embedding: str | None = None,
    ) -> None:
        import timm

        # The encoder finds the files, normalises and knows the sizes; it only leaves the classifier out.
        model = TimmImageEncoder(model_name, pretrained=True, weights=weights, channels=channels)
        source = model_name if weights is None else f"local-dir:{weights}"
        model.backbone = timm.create_model(source, pretrained=True, in_chans=channels)
        count = int(model.backbone.num_classes)
        if count < 1 or (classes is not None and len(classes) != count):
            raise TeacherError(
                where=f"TimmTeacher, {weights or model_name}",
                found=f"a classifier with {count} classes",
                expected="at least one" if classes is None else f"the {len(classes)} of `classes`",
                fix="take a model that was saved with its classifier, and name its classes in order",
            )
        super().__init__(model, embedding)
        self.modality, self.num_classes = modality, count
        self.classes = None if classes is None else tuple(classes)
        self.requirements = {modality: dict(model.requirements)}

    def answer(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """Its logits."""
        return ModelOutput(model(batch["inputs"][self.modality]))
