"""The size of tensors by a quantile of their entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.units.base import Total, Unit

SAMPLE: Final = 2**16
_BLOCK: Final = 64


class Quantile(Unit):
    """exp(s_t / (1 - d^t)), where s_t = d * s_(t-1) + (1 - d) * log(q_t).

    q_t is the share-quantile of |x| over the entries that are not zero, taken together, with linear
    interpolation. Zeros say nothing of the size of the others: embeddings that were not looked up, a
    modality that is absent, units that are off. NaN does not count either. Of more than 65 536 entries a
    sample is taken: see `sample`. The logarithm keeps one outlying step from moving the unit far. A step
    whose quantile is not finite, or that has zeros only, leaves history as it is. Before there is any history
    the tensors' own quantile is the unit, and where there is none the smallest normal float32.

    Where tensors are split over processes, log(q_t) is the mean over the processes of that of their parts:
    all have the same unit, which is not exactly the quantile of the whole.

    Args:
        share: From above 0 to 1. With 0.99, a range of 1 clips one entry in a hundred.
        decay: d, from 0 (this step alone) to below 1 (about the last 1 / (1 - d) steps).

    Raises:
        ConfigError: If share or decay is out of its range.

    >>> unit = Quantile(share=0.5)
    >>> round(unit([torch.tensor([1.0, -2.0, 9.0, 0.0])]).item(), 4)
    2.0
    """

    log: Tensor
    seen: Tensor

    def __init__(self, share: float = 0.99, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ConfigError(
                where="Quantile.share", found=share, expected="above 0 and at most 1", fix="try 0.99"
            )
        if not 0 <= decay < 1:
            raise ConfigError(
                where="Quantile.decay", found=decay, expected="from 0 to below 1", fix="try 0.99"
            )
        self.share, self.decay = share, decay
        self.register_buffer("log", torch.zeros(()))  # s_t
        self.register_buffer("seen", torch.zeros(()))  # 1 - d^t

    @torch.no_grad()
    def forward(self, tensors: Sequence[Tensor], *, fresh: bool = True, total: Total | None = None) -> Tensor:
        """The quantile, smoothed."""
        now = log_quantile(tensors, self.share, total)
        good = now.isfinite()
        log, seen = self.log.to(now.device), self.seen.to(now.device)
        if fresh:
            log = torch.where(good, self.decay * log + (1 - self.decay) * now, log)
            seen = torch.where(good, self.decay * seen + (1 - self.decay), seen)
            self.log.copy_(log)
            self.seen.copy_(seen)
        smallest = torch.finfo(now.dtype).tiny
        own = torch.where(good, now, math.log(smallest))
        return torch.where(seen > 0, log / seen.clamp(min=1e-12), own).exp().clamp(min=smallest)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"share={self.share}, decay={self.decay}"


def sample(tensors: Sequence[Tensor], most: int = SAMPLE) -> Tensor:
    """Entries of all tensors together: all of them, or where there are more than `most` a part.

    Of a part, each tensor gives entries in proportion to its size, in contiguous blocks of 64 to 127 that
    are spread evenly over it: one cache line read is sixteen entries had. The same entries every time.

    Args:
        tensors: Of any shapes.
        most: Entries.

    Returns:
        1-D, at most `most` entries, in no particular order, on the first tensor's device.
    """
    sizes, device = [x.numel() for x in tensors], tensors[0].device
    entries = sum(sizes)
    if entries <= most:
        return torch.cat([x.reshape(-1).to(device) for x in tensors])
    parts, before = [], 0
    for x, size in zip(tensors, sizes, strict=True):
        count = (before + size) * most // entries - before * most // entries
        before += size
        if count:
            parts.append(_blocks(_flat(x), count).to(device))
    return torch.cat(parts)


def _flat(x: Tensor) -> Tensor:
    """All entries in the order of memory: no copy of channels-last or transposed tensors."""
    return x.permute(sorted(range(x.ndim), key=x.stride, reverse=True)).reshape(-1)


def _blocks(flat: Tensor, count: int) -> Tensor:
    rows = max(count // _BLOCK, 1)
    width = count // rows
    if rows == 1:
        start = (len(flat) - width) // 2
        return flat[start : start + width]
    # Not len // rows: that would often be a multiple of a row of the weight, and see its first columns only.
    return flat.unfold(0, width, (len(flat) - width) // (rows - 1))[:rows].reshape(-1)


def log_quantile(
    tensors: Sequence[Tensor], share: float, total: Total | None = None, most: int = SAMPLE
) -> Tensor:
    """Logarithm of the share-quantile of |x| over the entries that are not zero; of a sample where large.

    Args:
        tensors: Taken together.
        share: From 0 to 1.
        total: Where the tensors are parts of split ones: the mean over the processes is returned.
        most: Entries to look at.

    Returns:
        0-d float32; not finite where there is no entry, or where the quantile itself is not finite.
    """
    entries = sample(tensors, most).abs().float()
    if not len(entries):
        entries = entries.new_zeros(1)
    found = torch.nanquantile(entries.where(entries > 0, math.nan), share).log()
    if total is None:
        return found
    has = (entries > 0).any()
    row = torch.stack([torch.where(has, found, 0.0), has.float()])
    rows = total(row.expand(len(tensors), 2))  # the same in each row: one that is split has the sum over all
    sum_, processes = rows.index_select(0, rows[:, 1].argmax().reshape(1))[0]
    return sum_ / processes
