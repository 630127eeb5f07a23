"""What it does to a batch that samples lack a modality."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_distill.structures import Feature, Inputs, Tokens


def drop_modalities(present: Mapping[str, Tensor], probability: float) -> dict[str, Tensor]:
    """Mark each modality of each sample absent with a probability, keeping one of those that were there.

    Args:
        present: modality -> bool "batch".
        probability: In [0, 1).

    Returns:
        modality -> bool "batch".
    """
    there = torch.stack(list(present.values()), dim=1)
    # The present modality with the largest draw always stays, so that no sample is left with none.
    draws = torch.rand(there.shape, device=there.device).masked_fill(~there, -1.0)
    kept = there & ((draws >= probability) | (draws == draws.amax(dim=1, keepdim=True)))
    return dict(zip(present, kept.unbind(dim=1), strict=True))


def all_there(present: Tensor) -> bool:
    """Whether no sample lacks the modality; asked on the CPU only, elsewhere one would wait for it.

    Args:
        present: bool "batch".
    """
    return present.device.type == "cpu" and not torch.compiler.is_compiling() and bool(present.all())


def filled(x: Tensor, present: Tensor, value: float = 0.0) -> Tensor:
    """The tensor with a number in absent rows; itself, where it is easily seen that none is absent.

    Args:
        x: "batch ...".
        present: bool "batch".
        value: 0 for what is added up, 1 for what is multiplied.

    >>> filled(torch.tensor([[2.0], [3.0]]), torch.tensor([True, False]), 1.0)
    tensor([[2.],
            [1.]])
    """
    return x if all_there(present) else _fill(x, present, value)


def zeroed(feature: Feature, present: Tensor) -> Feature:
    """The feature, zero where it is absent; of tokens, also where there is padding, and no token if absent.

    Args:
        feature: "batch dim", or `Tokens`.
        present: bool "batch".
    """
    if not isinstance(feature, Tokens):
        return filled(feature, present)
    mask = feature.mask & present[:, None]
    values = feature.values if all_there(mask) else feature.values.masked_fill(~mask[:, :, None], 0.0)
    return Tokens(values, mask)


def anything_there(feature: Feature, present: Tensor) -> Tensor:
    """Where there is anything to fuse, a token at least: bool "batch".

    Args:
        feature: "batch dim", or `Tokens`.
        present: bool "batch".
    """
    return feature.mask.any(dim=1) & present if isinstance(feature, Tokens) else present


def blank(inputs: Inputs, present: Tensor) -> Inputs:
    """Blank what absent samples hold, so that neither NaN nor batch statistics can come from it.

    Args:
        inputs: As in `Batch`.
        present: bool "batch".
    """
    if isinstance(inputs, dict):
        # Mask 1, not 0: attention over an empty sequence is not defined.
        return {k: _fill(v, present, int(k == "attention_mask")) for k, v in inputs.items()}
    return _fill(inputs, present, 0)


def _fill(x: Tensor, present: Tensor, value: float) -> Tensor:
    return x.masked_fill(~present.view(-1, *[1] * (x.ndim - 1)), value)
