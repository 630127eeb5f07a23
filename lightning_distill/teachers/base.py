"""The contract of a teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType

import torch
from torch import Tensor, nn

from lightning_distill.extraction import LayerExtractor
from lightning_distill.structures import Batch, ModelOutput, is_layer


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
        """Called before training, with the student as it starts; nothing by default."""

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
    """

    def __init__(self, model: nn.Module) -> None:
        self._freeze(model)

    def _freeze(self, model: nn.Module) -> None:
        self._model = model.eval().requires_grad_(False)
        self._parts = list(model.modules())
        self._extractor: LayerExtractor | None = None

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
        if self._extractor is not None:
            self._extractor.close()
        paths = [name for name in names if is_layer(name, tuple(self.requirements))]
        self._extractor = LayerExtractor(self._model, paths, "teacher") if paths else None

    def __call__(self, batch: Batch) -> ModelOutput:
        """Answer for a batch under `no_grad` (not inference mode, whose tensors autograd refuses)."""
        with torch.no_grad():
            if self._extractor is None:
                return self.answer(self.model, batch)
            with self._extractor.capturing() as layers:
                output = self.answer(self.model, batch)
            return replace(output, layers=layers)

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self._model.to(device)

    def tensors(self) -> Iterator[Tensor]:
        """The model's parameters and buffers."""
        return chain(self._model.parameters(), self._model.buffers())
