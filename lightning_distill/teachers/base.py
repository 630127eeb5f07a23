"""The contract of a teacher, and its two usual forms: a model, and one that wraps another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_distill.extraction import LayerExtractor
from lightning_distill.identity import identity_of
from lightning_distill.structures import Batch, ModelOutput, is_layer

if TYPE_CHECKING:
    from lightning_distill.data import MultimodalDataModule


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
    changes: bool = False
    """Whether it learns while it teaches."""

    @property
    def identity(self) -> object:
        """All that its answers depend on, for `identity_of`. Default: its attributes."""
        return vars(self)

    @abstractmethod
    def __call__(self, batch: Batch) -> ModelOutput:
        """Answer for a batch."""

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move to the student's device."""

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """Parameters and buffers, for checks that none is shared with the student."""

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What must not change while it teaches, by name; its tensors by number where it tells no names."""
        return ((f"tensor {at}", tensor) for at, tensor in enumerate(self.tensors()))

    def fingerprints(self) -> Mapping[str, str]:
        """Name -> hash of what must not change, as it is or, where it is gone or split, as it was."""
        return {name: identity_of(tensor) for name, tensor in self.named_tensors()}

    @abstractmethod
    def read_layers(self, names: Sequence[str]) -> None:
        """Make these part of every answer, so that `ModelOutput.at` finds them.

        Args:
            names: As `ModelOutput.at` takes them; called once, before the first answer that needs them.

        Raises:
            ConfigError: If there is no such layer.
        """

    def open(self, data: MultimodalDataModule, splits: Sequence[str]) -> None:  # noqa: B027
        """Called once the layers are known, with the data that are used next; nothing by default.

        Args:
            data: Set up.
            splits: Those that are used.
        """

    def fetch(self, batch: Batch) -> Batch:
        """Called on the CPU, before a batch is moved: the place to add what lies on disk."""
        return batch

    def end_epoch(self, barrier: Callable[[], None]) -> None:  # noqa: B027
        """Called after each epoch of training; nothing by default.

        Args:
            barrier: Waits for all processes.
        """

    def close(self) -> None:  # noqa: B027
        """Called when training or evaluation ends, for whatever reason; nothing by default."""

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
    def identity(self) -> object:
        """All but the layers that are read at the moment."""
        return {name: value for name, value in vars(self).items() if name not in ("_extractor", "_parts")}

    @property
    def model(self) -> nn.Module:
        """The model, in eval mode."""
        for part in self._parts:
            if part.training:  # setting an attribute of a module takes longer than asking
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

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers, without those buffers that models keep for their own use only."""
        saved = self._model.state_dict()
        named = chain(self._model.named_parameters(), self._model.named_buffers())
        return ((name, tensor) for name, tensor in named if name in saved)


class TeacherWrapper(Teacher):
    """A teacher that has another one answer, and changes something about it; all else is the other's.

    Args:
        teacher: The other one.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.num_classes, self.classes = teacher.num_classes, teacher.classes
        self.preprocessing, self.changes = teacher.preprocessing, teacher.changes

    @property
    def requirements(self) -> Mapping[str, Mapping[str, object]]:  # type: ignore[override]
        """Those of the other."""
        return self.teacher.requirements

    def to(self, device: torch.device) -> None:
        """Move the other."""
        self.teacher.to(device)

    def tensors(self) -> Iterator[Tensor]:
        """Those of the other."""
        return self.teacher.tensors()

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Those of the other."""
        return self.teacher.named_tensors()

    def fingerprints(self) -> Mapping[str, str]:
        """Those of the other."""
        return self.teacher.fingerprints()

    def read_layers(self, names: Sequence[str]) -> None:
        """Ask the other."""
        self.teacher.read_layers(names)

    def open(self, data: MultimodalDataModule, splits: Sequence[str]) -> None:
        """Tell the other."""
        self.teacher.open(data, splits)

    def fetch(self, batch: Batch) -> Batch:
        """Ask the other."""
        return self.teacher.fetch(batch)

    def end_epoch(self, barrier: Callable[[], None]) -> None:
        """Tell the other."""
        self.teacher.end_epoch(barrier)

    def close(self) -> None:
        """Tell the other."""
        self.teacher.close()

    def begin(self, student: nn.Module) -> None:
        """Tell the other."""
        self.teacher.begin(student)

    def after_step(self, student: nn.Module, step: int) -> None:
        """Tell the other."""
        self.teacher.after_step(student, step)

    def state_dict(self) -> dict[str, Tensor]:
        """That of the other."""
        return self.teacher.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give it to the other."""
        self.teacher.load_state_dict(state)
