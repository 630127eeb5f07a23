"""Any torch model as a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lightning_distill.errors import TeacherError
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers.base import ModelTeacher


class ForeignTeacher(ModelTeacher):
    """A classifier of one modality that was made without this library.

    A tensor is given to the model as its only argument, a dict of tensors as keyword arguments. The model
    returns the logits, or something with `.logits` or an entry "logits". It reads what the processors make:
    an image is uint8 or 0..255, so that a model that wants other numbers stands behind a module that makes
    them. A model of several modalities needs a subclass of `ModelTeacher`, whose `answer` is a few lines.

    Args:
        model: It is frozen in place.
        modality: What it reads.
        num_classes: Width of its logits.
        classes: Their names, in order, where known.
        embedding: Path of the module whose output is the embedding, such as `avgpool`.

    Raises:
        ConfigError: If there is no module of that path.
        TeacherError: If names and number of classes differ; in training, if the model does not return such
            logits.
    """

    def __init__(
        self,
        model: nn.Module,
        modality: str,
        num_classes: int,
        classes: Sequence[str] | None = None,
        embedding: str | None = None,
    ) -> None:
        super().__init__(model, embedding)
        if classes is not None and len(classes) != num_classes:
            raise TeacherError(
                where="ForeignTeacher.classes",
                found=f"{len(classes)} names",
                expected=f"{num_classes}, as num_classes says",
                fix="give one name a logit, in order",
            )
        self.modality, self.num_classes = modality, num_classes
        self.classes = None if classes is None else tuple(classes)
        self.requirements = {modality: {}}

    def answer(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """Its logits."""
        inputs = batch["inputs"][self.modality]
        found = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        logits = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", found)
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else None
        size = len(batch["sample_id"])
        if not isinstance(logits, Tensor) or shape != (size, self.num_classes):
            raise TeacherError(
                where=f"ForeignTeacher, {type(model).__name__}",
                found=f"an answer of type {type(found).__name__}" + (f" with shape {shape}" if shape else ""),
                expected=f"logits of shape {(size, self.num_classes)}, alone or under the name `logits`",
                fix="correct num_classes, or wrap the model in a module that returns its logits",
            )
        return ModelOutput(logits)
