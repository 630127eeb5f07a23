"""A teacher that stays on a device of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers.base import Teacher, TeacherWrapper


class PlacedTeacher(TeacherWrapper):
    """Answers on its own device: batches are copied there, answers back to where the student is.

    For a teacher that has no room beside the student: another GPU of the machine, or the CPU. With several
    processes each must have a device of its own for its teacher, so a config for all of them can name "cpu"
    only. A student on the CPU waits for each answer of a GPU; a student on a GPU goes on while it is copied.

    Args:
        teacher: Who answers.
        device: Where it stays, such as "cuda:1" or "cpu".

    Raises:
        ConfigError: If there is no such device here.

    >>> from lightning_distill.model import MultimodalModel
    >>> from lightning_distill.encoders import ImageCNN
    >>> from lightning_distill.teachers import FrozenTeacher
    >>> teacher = FrozenTeacher(MultimodalModel({"image": ImageCNN()}, num_classes=3))
    >>> PlacedTeacher(teacher, "cpu").num_classes
    3
    """

    def __init__(self, teacher: Teacher, device: str) -> None:
        super().__init__(teacher)
        self.device = _device(device)
        teacher.to(self.device)

    @property
    def identity(self) -> object:
        """The teacher: where it stands does not matter."""
        return self.teacher

    def __call__(self, batch: Batch) -> ModelOutput:
        """The teacher's answer, on the batch's device."""
        there = batch["target"].device
        if there == self.device:
            return self.teacher(batch)
        output = self.teacher(_moved(batch, self.device))
        return replace(
            output,
            **{name: _moved(getattr(output, name), there) for name in ("logits", "embedding")},
            **{name: _moved(dict(getattr(output, name)), there) for name in ("features", "extras", "layers")},
        )

    def to(self, device: torch.device) -> None:
        """Stay."""


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if not isinstance(value, Tensor):
        return value
    # A copy to the CPU that does not wait would be read before it has arrived.
    return value.to(device, non_blocking=device.type != "cpu")


def _device(name: str) -> torch.device:
    """The device, tried out."""
    try:
        device = torch.device(name)
        device = torch.empty(1, device=device).device  # "cuda" becomes "cuda:0"
        if device.type == "meta":
            raise RuntimeError("the device meta holds no numbers")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            where="PlacedTeacher.device",
            found=f"{name!r}, which cannot be used here ({str(error).splitlines()[0]})",
            expected=f"cpu, or one of {torch.accelerator.device_count()} accelerators, as in cuda:1",
            fix="name a device of this machine, or remove PlacedTeacher",
        ) from error
    return device
