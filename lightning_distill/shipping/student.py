"""A trained student by itself: raw files in, answers out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from lightning_distill.data.audio import AudioProcessor, read_audio
from lightning_distill.data.image import ImageProcessor, read_image
from lightning_distill.data.processor import Processor
from lightning_distill.data.reading import Facts, Reading
from lightning_distill.errors import CheckpointError, ConfigError, SampleError, nearest
from lightning_distill.export import TRUSTED, load_student
from lightning_distill.model import MultimodalModel
from lightning_distill.randomness import View
from lightning_distill.security.allowed import narrowed
from lightning_distill.shipping.examples import example
from lightning_distill.shipping.images import image_array
from lightning_distill.shipping.prediction import Prediction, told
from lightning_distill.shipping.preprocessing import processors_of
from lightning_distill.structures import UNLABELLED, Batch, Inputs, Outputs
from lightning_distill.student_config import CONFIG, read_config
from lightning_distill.writing.whole_folder import standing

Sample: TypeAlias = Mapping[str, Any]
"""modality -> a file (image, sound), a text, an array, or whatever its processor reads."""


class Student:
    """A model with what prepares its inputs, for prediction.

        student = Student.from_pretrained("runs/student/student")
        print(student.predict({"image": "photo.jpg", "text": "a red bicycle"}))

    It needs torch, numpy, safetensors and xxhash, and what its modalities need: OpenCV for images, soundfile
    for sound files (and scipy for those at another sample rate), transformers for its tokenizers and text
    encoders, timm for its image encoders.

    Args:
        model: As `load_student` gives it.
        processors: modality -> preprocessing, for each modality of the model.
        outputs: What the logits stand for.

    Raises:
        ConfigError: If a modality has no processor.

    >>> from lightning_distill import MultimodalModel
    >>> from lightning_distill.data import ByteTextProcessor
    >>> from lightning_distill.encoders import ByteTextCNN
    >>> model = MultimodalModel({"text": ByteTextCNN()}, num_classes=2)
    >>> model.classes = ("no", "yes")
    >>> answer = Student(model, {"text": ByteTextProcessor()}).predict({"text": "a red bicycle"})
    >>> list(answer.probabilities), answer.label in model.classes
    (['no', 'yes'], True)
    """

    def __init__(
        self,
        model: MultimodalModel,
        processors: Mapping[str, Processor],
        outputs: Outputs = Outputs.CLASSES,
    ) -> None:
        missing = [m for m in model.modalities if m not in processors]
        if missing:
            raise ConfigError(
                where="Student.processors",
                found=f"none for {', '.join(missing)}",
                expected=f"a processor for each of {', '.join(model.modalities)}",
                fix="give those the model was trained with, as in the run's config",
            )
        self.model, self.outputs = model.eval(), outputs
        self.processors = {m: processors[m] for m in model.modalities}
        self._reading = Reading(self.processors, split="test")

    @classmethod
    def from_pretrained(cls, folder: Path | str, packages: Sequence[str] = ()) -> Student:
        """The student in a folder of `fit`, `save_student` or `export`, on the CPU.

        Args:
            folder: Such as RUN/student.
            packages: Whose classes it may name besides `lightning_distill` and `torch.nn`; only what you
                trust, since making an instance runs their code.

        Raises:
            CheckpointError: If a file is missing or damaged, names another package, does not fit, or does not
                tell how samples are prepared.
        """
        folder = Path(folder)
        if not (folder / CONFIG).is_file() and (folder / "student" / CONFIG).is_file():
            raise CheckpointError(
                where=folder,
                found="the folder of a run",
                expected="that of its student",
                fix=f"Student.from_pretrained({str(folder / 'student')!r})",
            )
        model = load_student(folder, packages)
        content, path = read_config(folder), standing(folder) / CONFIG
        outputs = content.get("outputs") or Outputs.CLASSES.name
        if not isinstance(outputs, str) or outputs not in Outputs.__members__:
            raise CheckpointError(
                where=f"{path}, outputs",
                found=repr(outputs),
                expected=", ".join(Outputs.__members__),
                fix="export the student again",
            )
        processors = processors_of(content, model.modalities, narrowed((*TRUSTED, *packages)), path)
        return cls(model, processors, Outputs[outputs])

    def __repr__(self) -> str:
        """What goes in, and what comes out."""
        return (
            f"Student({', '.join(self.modalities)} -> {self.model.num_classes} {self.outputs.name.lower()})"
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities it reads."""
        return self.model.modalities

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its outputs, in the order of the logits; their numbers where they have no names."""
        return self.model.classes or tuple(map(str, range(self.model.num_classes)))

    def to(self, device: torch.device | str) -> Student:
        """Move the model, and from now on what it reads, to a device."""
        self.model.to(device)
        return self

    @overload
    def predict(self, samples: Sample, batch_size: int = ...) -> Prediction: ...

    @overload
    def predict(self, samples: Iterable[Sample], batch_size: int = ...) -> list[Prediction]: ...

    def predict(
        self, samples: Sample | Iterable[Sample], batch_size: int = 64
    ) -> Prediction | list[Prediction]:
        """Answer one sample, or several.

        Args:
            samples: modality -> raw sample, or many of them. An image is a file, a PIL image or a uint8
                array "height width channels" (RGB or grey), a sound a file or a `Waveform`, a text a str. A
                modality that is left out, or None, is absent.
            batch_size: Samples that go through the model at a time.

        Returns:
            One answer for one sample, a list for several.

        Raises:
            ConfigError: If a modality is none of the student's, or what decodes it is not installed.
            SampleError: If a sample is no mapping, has no modality, or cannot be read.
        """
        if isinstance(samples, Mapping):
            return self._answers([samples], 0)[0]
        if isinstance(samples, str | bytes) or not isinstance(samples, Iterable):
            raise self._no_mapping("samples", samples)
        many = list(samples)
        if batch_size < 1:
            raise ConfigError(where="batch_size", found=batch_size, expected="1 or more", fix="try 64")
        parts = range(0, len(many), batch_size)
        return [answer for at in parts for answer in self._answers(many[at : at + batch_size], at)]

    def batch(self, samples: Sequence[Sample], first: int = 0) -> Batch:
        """What the model reads, on the CPU.

        Args:
            samples: As for `predict`.
            first: Number of the first of them, for messages.
        """
        prepared = [self._prepared(sample, first + at) for at, sample in enumerate(samples)]
        there = {m: np.array([sample.get(m) is not None for sample in samples]) for m in self.modalities}
        count = len(samples)
        nothing = np.zeros(count, np.int64)
        facts = Facts(there, torch.full((count,), UNLABELLED), nothing, nothing)
        return self._reading.batch(self._reading.collate(prepared), facts, 0)

    def _answers(self, samples: Sequence[Sample], first: int) -> list[Prediction]:
        device = next(self.model.parameters()).device
        batch = self.batch(samples, first)
        batch["inputs"] = {m: _moved(x, device) for m, x in batch["inputs"].items()}
        batch["present"] = {m: x.to(device) for m, x in batch["present"].items()}
        with torch.no_grad():
            output = self.model(batch)
        logits, embedding = output.logits.cpu(), output.embedding
        embeddings = [None] * len(samples) if embedding is None else list(embedding.cpu())
        rows = zip(logits, embeddings, strict=True)
        return [told(row, feature, self.classes, self.outputs) for row, feature in rows]

    def _prepared(self, sample: Sample, number: int) -> dict[Any, Any]:
        where = f"sample {number}"
        if not isinstance(sample, Mapping):
            raise self._no_mapping(where, sample)
        for modality in sample:
            if modality not in self.processors:
                raise ConfigError(
                    where=where,
                    found=f"{modality!r}{nearest(str(modality), self.modalities)}",
                    expected=f"modalities of the student: {', '.join(self.modalities)}",
                    fix="leave it out, or correct the name",
                )
        there = [m for m in self.modalities if sample.get(m) is not None]
        if not there:
            raise SampleError(
                where=where,
                found="no modality",
                expected=f"one or more of {', '.join(self.modalities)}",
                fix=f"for example {example(self.modalities)}",
            )
        return self._reading.prepare(
            there, lambda m: self._raw(m, sample[m], f"{where}, {m}"), lambda: where, View(0, 0, 0)
        )

    def _no_mapping(self, where: str, found: object) -> SampleError:
        return SampleError(
            where=where,
            found=f"a {type(found).__name__}",
            expected="a mapping from modalities to raw samples, or several of them",
            fix=f"for example predict({example(self.modalities)})",
        )

    def _raw(self, modality: str, value: Any, where: str) -> Any:
        """A file's content for a file's name, where the modality is of files."""
        processor = self.processors[modality]
        if not isinstance(value, str | Path):
            return image_array(value, where) if isinstance(processor, ImageProcessor) else value
        if isinstance(processor, ImageProcessor) or modality == "image":
            return read_image(Path(value), where)
        if isinstance(processor, AudioProcessor) or modality == "audio":
            return read_audio(Path(value), where)
        return value


def _moved(inputs: Inputs, device: torch.device) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {name: x.to(device) for name, x in inputs.items()}
