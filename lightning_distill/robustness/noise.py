"""A modality that is hard to make out."""

from __future__ import annotations

import math
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.randomness import generator
from lightning_distill.robustness.base import Corruption, draws, sample_ids
from lightning_distill.structures import Batch, Inputs

IDS: Final = "input_ids"
MASK: Final = "attention_mask"


class Noise(Corruption):
    """Gaussian noise on numbers and images, wrong tokens in texts.

    Numbers: x + level * scale * s * n, where n is standard normal and s is the standard deviation of that
    sample's own values, so that it does not depend on the rest of the batch. A sample whose values are all
    equal has s = 0 and stays as it is; so do samples of one number. Padding counts as values.

    Images of uint8: the same, rounded and held within 0 and 255.

    Tokens (a dict with `input_ids`): each real token is replaced, with the probability `level`, by one drawn
    from the real tokens of the batch's other samples, as often as they occur there. First and last token of
    each text are neither replaced nor drawn, because tokenizers put their special tokens there. Which tokens
    are replaced depends on (seed, sample, place) alone; what replaces them depends on the batch. Masks stay.

    Args:
        scale: Standard deviations of noise at level 1, in those of the sample. 2 is a signal-to-noise ratio
            of -6 dB.

    Raises:
        ConfigError: If the scale is not above 0, or inputs are integers of another kind.

    >>> batch = {
    ...     "inputs": {"a": torch.tensor([[5.0, 5.0], [0.0, 8.0]])},
    ...     "present": {"a": torch.tensor([True, True])},
    ...     "target": torch.tensor([0, 1]),
    ...     "sample_id": torch.tensor([7, 8]),
    ...     "domain": torch.tensor([0, 0]),
    ... }
    >>> (Noise()(batch, "a", 0.5, seed=0)["inputs"]["a"] == batch["inputs"]["a"]).tolist()
    [[True, True], [False, False]]
    """

    name: ClassVar[str] = "noise"

    def __init__(self, scale: float = 2.0) -> None:
        if not (math.isfinite(scale) and scale > 0):
            raise ConfigError(
                where="Noise.scale",
                found=scale,
                expected="a number above 0",
                fix="1 adds as much noise at level 1 as the sample has signal, 2 twice as much",
            )
        self.scale = scale

    def corrupt(self, batch: Batch, modality: str, level: float, seed: int) -> tuple[Inputs, Tensor]:
        """See the class."""
        inputs, present = batch["inputs"][modality], batch["present"][modality]
        if isinstance(inputs, dict) and IDS in inputs:
            return {**inputs, IDS: _wrong_tokens(batch, modality, level, seed)}, present
        noisy: dict[str, Tensor] = {}
        for key, x in _numbers(inputs, modality).items():
            size = level * self.scale * _deviation(x)
            noise = _normal(batch, x, f"{modality} {key}", seed)
            changed = x.to(noise.dtype) + size * noise
            if x.dtype == torch.uint8:
                changed = changed.round().clamp(0, 255)
            here = present.view(size.shape) & (size > 0)
            noisy[key] = torch.where(here, changed.to(x.dtype), x)
        return {**inputs, **noisy} if isinstance(inputs, dict) else noisy[""], present

    def spared(self, batch: Batch, modality: str) -> Tensor:
        """Samples that lack it, whose values are all equal, or without a token to replace or to draw."""
        inputs, present = batch["inputs"][modality], batch["present"][modality]
        if isinstance(inputs, dict) and IDS in inputs:
            inner = _inner(inputs, present).sum(dim=1)
            return ~present | (inner == 0) | (inner == inner.sum())
        flat = [_deviation(x).flatten() == 0 for x in _numbers(inputs, modality).values()]
        return ~present | torch.stack(flat).all(dim=0)


def _numbers(inputs: Inputs, modality: str) -> dict[str, Tensor]:
    """The tensors that get noise, by their key; "" is the key of what is no dict."""
    parts = inputs if isinstance(inputs, dict) else {"": inputs}
    found = {k: x for k, x in parts.items() if x.is_floating_point() or x.dtype == torch.uint8}
    if not found:
        raise ConfigError(
            where=f"Noise, modality {modality!r}",
            found=", ".join(f"{key} {x.dtype}".strip() for key, x in parts.items()),
            expected=f"floating-point numbers, uint8 images, or a dict with {IDS}",
            fix="leave the modality or this corruption out, or write a Corruption of your own",
        )
    return found


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation of each sample's values, at least float32, "batch 1 ..."."""
    values = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(1)
    low, high = values.aminmax(dim=1)
    # The mean of equal values may differ from them in the last bit.
    return values.std(dim=1, correction=0).masked_fill(low == high, 0.0).view(-1, *[1] * (x.ndim - 1))


def _normal(batch: Batch, x: Tensor, purpose: str, seed: int) -> Tensor:
    """Standard normal draws in the shape of the inputs, a function of (seed, sample id, purpose)."""
    count = x[:1].numel()
    rows = [
        generator(seed, "robustness noise", purpose, int(i)).standard_normal(count, np.float32)
        for i in sample_ids(batch)
    ]
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.from_numpy(np.stack(rows)).view(x.shape).to(x.device, dtype)


def _inner(inputs: dict[str, Tensor], present: Tensor) -> Tensor:
    """Real tokens but the first and the last of each text: bool "batch tokens"."""
    real = inputs[MASK].bool() if MASK in inputs else torch.ones_like(inputs[IDS], dtype=torch.bool)
    place = real.cumsum(dim=1)
    return real & (place > 1) & (place < place[:, -1:]) & present[:, None]


def _wrong_tokens(batch: Batch, modality: str, level: float, seed: int) -> Tensor:
    inputs: dict[str, Tensor] = batch["inputs"][modality]  # type: ignore[assignment]
    ids, inner = inputs[IDS], _inner(inputs, batch["present"][modality])
    # By the place in the text, not in the batch: padding on the left must not move the draws.
    place = (inner.cumsum(dim=1) - 1).clamp(min=0)
    u = draws(batch, seed, f"noise {modality}", ids.shape[1]).gather(1, place)
    pick = draws(batch, seed, f"noise tokens {modality}", ids.shape[1]).gather(1, place)
    order = batch["sample_id"].argsort(stable=True)
    pool = ids[order][inner[order]]
    own = inner.sum(dim=1)
    first = torch.empty_like(own)
    first[order] = own[order].cumsum(dim=0) - own[order]
    others = (len(pool) - own)[:, None]
    at = (pick.double() * others).long()
    at = torch.where(at < first[:, None], at, at + own[:, None])
    changed = inner & (u < level) & (others > 0)
    if not len(pool):
        return ids
    return torch.where(changed, pool[at.clamp(max=len(pool) - 1)], ids)
