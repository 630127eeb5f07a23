"""A student with tensors in and logits out, as formats without dicts want it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch

MASK: Final = "attention_mask"
"""Entry of a modality's dict that says which of its tokens are there."""
PRESENT: Final = "present_"
"""Before the name of a modality: the bool tensor "batch" that says which samples have it."""
_SHORTEST: Final = 3
"""Tokens of the example: a length of 1 would be taken for a constant."""


class Slot(NamedTuple):
    """Where one tensor of a batch goes.

    Attributes:
        name: In the flat signature.
        modality: What it is a part of.
        key: Of the modality's dict; None where the modality is one tensor.
    """

    name: str
    modality: str
    key: str | None


def slots(model: MultimodalModel, batch: Batch) -> tuple[Slot, ...]:
    """The tensors the model reads, in the order of its modalities.

    A tensor has its modality's name; an entry of a dict has that of its key, with the modality before it
    where several modalities have such a key.

    Args:
        model: Says which modalities.
        batch: As its encoders read it.

    Raises:
        ConfigError: If two tensors would have one name.
    """
    found = []
    for modality in model.modalities:
        inputs = batch["inputs"][modality]
        keys: list[str | None] = list(inputs) if isinstance(inputs, Mapping) else [None]
        found += [(modality, key) for key in keys]
    often = Counter(key for _, key in found)
    names = [m if key is None else f"{m}_{key}" if often[key] > 1 else key for m, key in found]
    flags = _flags(model)
    twice = [name for name, count in Counter([*names, *flags]).items() if count > 1]
    if twice:
        raise ConfigError(
            where="flat inputs of the student",
            found=f"two tensors with the name {twice[0]!r}",
            expected="a name for each",
            fix="call the modality something else",
        )
    return tuple(Slot(name, m, key) for name, (m, key) in zip(names, found, strict=True))


def input_names(model: MultimodalModel, batch: Batch) -> tuple[str, ...]:
    """Names of the flat inputs in their order: tensors, then `present_<modality>` for each of several.

    Args:
        model: Of the student.
        batch: As its encoders read it.

    >>> from lightning_distill.encoders import ByteTextCNN, ImageCNN
    >>> model = MultimodalModel({"image": ImageCNN(), "text": ByteTextCNN()}, num_classes=2)
    >>> text = {"input_ids": torch.ones(2, 4), "attention_mask": torch.ones(2, 4)}
    >>> input_names(model, {"inputs": {"image": torch.zeros(2, 1, 8, 8), "text": text}})
    ('image', 'input_ids', 'attention_mask', 'present_image', 'present_text')
    """
    return (*(slot.name for slot in slots(model, batch)), *_flags(model))


def _flags(model: MultimodalModel) -> list[str]:
    return [PRESENT + m for m in model.modalities] if len(model.modalities) > 1 else []


class FlatModel(nn.Module):
    """f(tensor, tensor, ...) = logits.

    A student of several modalities also takes a bool tensor "batch" for each of them, which says which
    samples have it; what an absent one's tensors hold does not matter. Each sample has one modality at least.

    Args:
        model: The student; put into evaluation mode.
        batch: One batch it reads, of any size.

    Raises:
        ConfigError: If two tensors would have one name.
    """

    def __init__(self, model: MultimodalModel, batch: Batch) -> None:
        super().__init__()
        self.model = model.eval()
        self.slots = slots(model, batch)
        self.input_names = input_names(model, batch)

    def flatten(self, batch: Batch) -> tuple[Tensor, ...]:
        """What `forward` takes for a batch.

        Args:
            batch: As the model reads it.
        """
        inputs = [_entry(batch["inputs"][slot.modality], slot.key) for slot in self.slots]
        told = self.model.modalities if len(self.input_names) > len(self.slots) else ()
        return (*inputs, *(batch["present"][m] for m in told))

    def forward(self, *tensors: Tensor) -> Tensor:
        """The logits, "batch classes".

        Args:
            tensors: In the order of `input_names`.
        """
        inputs: dict[str, Tensor | dict[str, Tensor]] = {}
        for slot, tensor in zip(self.slots, tensors, strict=False):
            if slot.key is None:
                inputs[slot.modality] = tensor
            else:
                inputs.setdefault(slot.modality, {})[slot.key] = tensor  # type: ignore[index]
        flags = tensors[len(self.slots) :]
        if not flags:
            flags = (torch.ones(tensors[0].shape[0], dtype=torch.bool, device=tensors[0].device),)
        present = dict(zip(self.model.modalities, flags, strict=True))
        logits: Tensor = self.model({"inputs": inputs, "present": present}).logits
        return logits

    def example(self, batch: Batch) -> tuple[Tensor, ...]:
        """Two samples of zeros, shaped as the batch is: a traced file keeps them, and data must not leak.

        Args:
            batch: Any the model reads.
        """
        found = []
        for slot, x in zip(self.slots, self.flatten(batch), strict=False):
            shape = [2, *x.shape[1:]]
            if 1 in self._free(slot, batch):
                shape[1] = max(shape[1], _SHORTEST)
            found.append(torch.full(shape, slot.key == MASK, dtype=x.dtype))
        flags = len(self.input_names) - len(found)
        # One tensor given twice would be traced as one input.
        return (*found, *(torch.ones(2, dtype=torch.bool) for _ in range(flags)))

    def free_dims(self, batch: Batch) -> tuple[dict[int, str], ...]:
        """For each input, which of its dimensions may have any size -> what that size is called.

        The batch, and the number of tokens where there is a mask over them. All else is as in the batch.

        Args:
            batch: Any the model reads.
        """
        told = [self._free(slot, batch) for slot in self.slots]
        return (*told, *[{0: "batch"}] * (len(self.input_names) - len(told)))

    @staticmethod
    def _free(slot: Slot, batch: Batch) -> dict[int, str]:
        inputs = batch["inputs"][slot.modality]
        if isinstance(inputs, Mapping) and MASK in inputs:
            x = inputs[slot.key or MASK]
            if x.ndim > 1 and x.shape[1] == inputs[MASK].shape[1]:
                return {0: "batch", 1: f"{slot.modality}_tokens"}
        return {0: "batch"}


def _entry(inputs: Tensor | dict[str, Tensor], key: str | None) -> Tensor:
    found = inputs[key] if isinstance(inputs, Mapping) and key is not None else inputs
    assert isinstance(found, Tensor)
    return found
