"""A transformers text classifier as a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.security.model_config import check_config
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers.base import ModelTeacher


class TransformersTeacher(ModelTeacher):
    """A transformers model for sequence classification.

    Weights are always safetensors, and code from a hub is never run. Its own tokenizer belongs into the
    DataModule's `teacher_processors` where the student's is another one.

    Args:
        model: Local folder, or hub name.
        modality: Name of the texts.
        classes: Names of its classes, in order; None takes those in its configuration, where it names them.
        embedding: Path of the module whose output is the embedding, such as `bert.pooler`.

    Raises:
        ConfigError: If the model cannot be found or loaded, or its config.json asks for code from elsewhere.
        TeacherError: If names and number of classes differ.
    """

    def __init__(
        self,
        model: str,
        modality: str = "text",
        classes: Sequence[str] | None = None,
        embedding: str | None = None,
    ) -> None:
        loaded = _load(model)
        count = int(loaded.config.num_labels)
        if classes is not None and len(classes) != count:
            raise TeacherError(
                where=f"TransformersTeacher, {model}",
                found=f"a classifier with {count} classes",
                expected=f"the {len(classes)} of `classes`",
                fix="name its classes in order",
            )
        super().__init__(loaded, embedding)
        self.modality, self.num_classes = modality, count
        self.classes = _named(loaded.config.id2label, count) if classes is None else tuple(classes)
        size = getattr(loaded.config, "vocab_size", None)
        self.requirements = {modality: {} if size is None else {"vocabulary_size": size}}

    def answer(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """Its logits."""
        inputs = batch["inputs"][self.modality]
        assert isinstance(inputs, dict)
        return ModelOutput(model(**inputs).logits)


def _load(model: str) -> Any:
    import torch
    import transformers
    from safetensors import SafetensorError

    local = Path(model).is_dir()
    try:
        check_config(model, "TransformersTeacher.model")
        loaded, told = transformers.AutoModelForSequenceClassification.from_pretrained(
            model,
            use_safetensors=True,
            local_files_only=local,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
        missing = sorted(told["missing_keys"])
        if missing:  # transformers would go on with random ones
            raise ValueError(f"no weights for {', '.join(missing[:3])}")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        kind = "folder" if local else "name"
        raise ConfigError(
            where="TransformersTeacher.model",
            found=f"{kind} {model!r}: {str(error).splitlines()[0]}",
            expected="a trained classifier: a folder with config.json and model.safetensors, or a hub name",
            fix="save one with model.save_pretrained(folder) and give that folder",
        ) from error
    return loaded


def _named(id2label: dict[int, str], count: int) -> tuple[str, ...] | None:
    """The names in a configuration; LABEL_0 and so on are no names."""
    names = tuple(str(id2label.get(at, f"LABEL_{at}")) for at in range(count))
    return None if names == tuple(f"LABEL_{at}" for at in range(count)) else names
