"""The contract of a teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType

import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.extraction import LayerExtractor
from lightning_distill.structures import OUTPUT_NAMES, Batch, ModelOutput, is_layer


class Teacher(ABC):
    """Gives a `ModelOutput` for a batch, without gradient.

    Deliberately not an nn.Module: what is not in the module tree cannot reach optimizer, checkpoint, clip
    rule or export, and no call of `train()` finds it.
    """

    num_classes: int
    """Width of its logits."""
    classes: tuple[str, ...] | None = None
    """Names of its classes in the order of its logits, where known."""
    requirements: Mapping[str, Mapping[str, object]] = MappingProxyType({})
    """modality it reads -> settings the processor must have; nothing where not known."""
    preprocessing: Mapping[str, Mapping[str, object]] | None = None
    """modality -> settings of the processor it was trained with, where known."""

    @abstractmethod
    def __call__(self, batch: Batch) -> ModelOutput:
        """Answer for a batch."""

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move to the student's device."""

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """Parameters and buffers, for checks that none is shared with the student."""

    @abstractmethod
    def read_layers(self, names: Sequence[str]) -> None:
        """Make these part of every answer, so that `ModelOutput.at` finds them.

        Args:
            names: As `ModelOutput.at` takes them; called once, before the first answer that needs them.

        Raises:
            ConfigError: If there is no such layer.
        """

    def begin(self, student: nn.Module) -> None:  # noqa: B027
        """Called before the first answer, with the student as it starts; may be called again."""

    def after_step(self, student: nn.Module, step: int) -> None:  # noqa: B027
        """Called after each optimizer step; nothing by default.

        Args:
            student: As it is now.
            step: Steps taken so far.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """What changes during training and must survive a resume; nothing by default."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take up what `state_dict` gave."""


class ModelTeacher(Teacher):
    """A teacher that is one torch model, in eval mode, without gradient, whatever the user calls.

    Args:
        model: It is frozen in place: its parameters no longer require a gradient.
        embedding: Path of the module whose output is the embedding; None leaves that to `answer`.

    Raises:
        ConfigError: If there is no module of that path.
    """

    def __init__(self, model: nn.Module, embedding: str | None = None) -> None:
        self._embedding = embedding
        self._freeze(model)

    def _freeze(self, model: nn.Module) -> None:
        self._model = model.eval().requires_grad_(False)
        self._parts = list(model.modules())
        self._extractor: LayerExtractor | None = None
        self._capture(())

    def _capture(self, paths: Sequence[str]) -> None:
        wanted = [*paths, *([] if self._embedding is None else [self._embedding])]
        before, self._extractor = (
            self._extractor,
            LayerExtractor(self._model, wanted, "teacher") if wanted else None,
        )
        if before is not None:
            before.close()

    @abstractmethod
    def answer(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """Run the model on a batch; mode, gradient and layers are taken care of."""

    @property
    def model(self) -> nn.Module:
        """The model, in eval mode."""
        for part in self._parts:
            part.training = False  # somebody may hold the model and have called train() on a part of it
        return self._model

    def read_layers(self, names: Sequence[str]) -> None:
        """Capture the outputs of these modules from now on."""
        self._capture([name for name in names if is_layer(name, tuple(self.requirements))])

    def __call__(self, batch: Batch) -> ModelOutput:
        """Answer for a batch under `no_grad` (not inference mode, whose tensors autograd refuses)."""
        with torch.no_grad():
            if self._extractor is None:
                return self.answer(self.model, batch)
            with self._extractor.capturing() as layers:
                output = self.answer(self.model, batch)
            if self._embedding is None:
                return replace(output, layers=layers)
            return replace(output, layers=layers, embedding=layers[self._embedding].flatten(1))

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self._model.to(device)

    def tensors(self) -> Iterator[Tensor]:
        """The model's parameters and buffers."""
        return chain(self._model.parameters(), self._model.buffers())


class TeacherGroup(Teacher):
    """Several teachers that answer as one: a mean of their probabilities, weighted sample by sample.

    p_i = sum_k w_ik softmax(t_ik), and the logits are log p_i, so that softmax(logits) is the mean. A
    temperature above 1 then softens the mean, which is not the mean of the softened answers. The classes must
    exclude each other.

    The embedding is the teachers' embeddings side by side, or None where one has none. Features and layers
    carry the name of their teacher: `features.0.image` is the image feature of teacher 0, and
    `0.encoders.image` one of its layers.

    Args:
        teachers: Name -> teacher. Where they name their classes, these are the same in any order; the first
            teacher's order counts.

    Raises:
        TeacherError: If there is none, or they differ in their classes or in what they want to read.
    """

    def __init__(self, teachers: Mapping[str, Teacher]) -> None:
        if not teachers:
            raise TeacherError(
                where=type(self).__name__, found="no teacher", expected="at least one", fix="name some"
            )
        self.teachers = dict(teachers)
        first = next(iter(self.teachers.values()))
        self.num_classes, self.classes = first.num_classes, first.classes
        self._orders = {name: self._order(name, teacher) for name, teacher in self.teachers.items()}
        self.requirements = self._merged({n: t.requirements for n, t in self.teachers.items()})
        told = {n: t.preprocessing for n, t in self.teachers.items() if t.preprocessing is not None}
        self.preprocessing = self._merged(told) if told else None

    def _order(self, name: str, teacher: Teacher) -> list[int] | None:
        """Where the first teacher's classes stand in this one's logits; None where the order is the same."""
        ours, theirs = self.classes, teacher.classes
        named = ours is not None and theirs is not None
        if teacher.num_classes != self.num_classes or (named and set(ours or ()) != set(theirs or ())):
            odd = sorted(set(theirs or ()) ^ set(ours or ())) if named else []
            raise TeacherError(
                where=f"{type(self).__name__}, teacher {name!r}",
                found=f"{teacher.num_classes} classes" + (f", not all shared: {odd[:8]}" if odd else ""),
                expected=f"the {self.num_classes} classes of the first teacher",
                fix="wrap it in ClassesByName with the classes of the student",
            )
        if ours is None or theirs is None or ours == theirs:
            return None
        return [theirs.index(name) for name in ours]

    def _merged(self, told: Mapping[str, Mapping[str, Mapping[str, object]]]) -> dict[str, dict[str, object]]:
        """What all teachers want of each modality."""
        merged: dict[str, dict[str, object]] = {}
        for name, wanted in told.items():
            for modality, settings in wanted.items():
                have = merged.setdefault(modality, {})
                for key, value in settings.items():
                    if have.setdefault(key, value) != value:
                        raise TeacherError(
                            where=f"{type(self).__name__}, teacher {name!r}, {modality}.{key}",
                            found=value,
                            expected=f"{have[key]}, as another teacher reads the same input",
                            fix="use teachers with the same preprocessing",
                        )
        return merged

    @abstractmethod
    def log_weights(self, log_probabilities: Tensor, batch: Batch) -> Tensor:
        """Logarithm of each teacher's weight.

        Args:
            log_probabilities: "teachers batch classes".
            batch: What they answered.

        Returns:
            "teachers batch" (or "teachers 1"), -inf for an answer that does not count; the weights of a
            sample add up to 1.
        """

    def answers(self, batch: Batch) -> dict[str, ModelOutput]:
        """Each teacher's answer."""
        return {name: teacher(batch) for name, teacher in self.teachers.items()}

    def __call__(self, batch: Batch) -> ModelOutput:
        """The weighted mean."""
        with torch.no_grad():
            answers = self.answers(batch)
            logits = [
                a.logits if (o := self._orders[n]) is None else a.logits[:, o] for n, a in answers.items()
            ]
            found = torch.stack(logits).log_softmax(dim=-1)
            weights = self.log_weights(found, batch)[:, :, None].to(found.dtype)
            # Not by the sum alone: NaN of a teacher that does not count would stay NaN.
            found = torch.where(weights.isneginf(), weights, found + weights)
            embeddings = [a.embedding for a in answers.values() if a.embedding is not None]
            return ModelOutput(
                found.logsumexp(dim=0),
                torch.cat(embeddings, dim=1) if len(embeddings) == len(answers) else None,
                {f"{n}.{m}": x for n, a in answers.items() for m, x in a.features.items()},
                layers={f"{n}.{path}": x for n, a in answers.items() for path, x in a.layers.items()},
            )

    def read_layers(self, names: Sequence[str]) -> None:
        """Ask each teacher for its layers; a name starts with that of its teacher and a dot."""
        asked: dict[str, list[str]] = {name: [] for name in self.teachers}
        for name in names:
            if name in OUTPUT_NAMES or name.startswith("features."):
                continue
            whose, _, path = name.partition(".")
            if whose not in asked or not path:
                raise ConfigError(
                    where=f"layer {name!r} of the teacher",
                    found=f"a {type(self).__name__} of {', '.join(asked)}",
                    expected="the name of one of these before the path",
                    fix=f"write {next(iter(asked))}.{name}",
                )
            asked[whose].append(path)
        for whose, paths in asked.items():
            self.teachers[whose].read_layers(paths)

    def to(self, device: torch.device) -> None:
        """Move all."""
        for teacher in self.teachers.values():
            teacher.to(device)

    def tensors(self) -> Iterator[Tensor]:
        """Of all."""
        return chain.from_iterable(teacher.tensors() for teacher in self.teachers.values())

    def begin(self, student: nn.Module) -> None:
        """Tell all."""
        for teacher in self.teachers.values():
            teacher.begin(student)

    def after_step(self, student: nn.Module, step: int) -> None:
        """Tell all."""
        for teacher in self.teachers.values():
            teacher.after_step(student, step)

    def state_dict(self) -> dict[str, Tensor]:
        """Of all, each under its name."""
        return {f"{n}.{key}": x for n, t in self.teachers.items() for key, x in t.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give each its own."""
        for name, teacher in self.teachers.items():
            own = {k.removeprefix(f"{name}."): x for k, x in state.items() if k.startswith(f"{name}.")}
            if own:
                teacher.load_state_dict(own)
