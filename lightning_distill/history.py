"""Modules whose buffers stay as precise as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class History(nn.Module):
    """Its own buffers move to other devices, but never to another precision.

    A bound or a running mean that follows the model into half precision would be rounded, or overflow.

    >>> import torch
    >>> history = History(); history.register_buffer("mean", torch.tensor(0.1))
    >>> history.half().mean.dtype
    torch.float32
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self
