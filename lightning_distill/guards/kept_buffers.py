"""Running statistics and histories as they were before a step that is left out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KeptBuffers:
    """Remembers a module's buffers from before the forward passes of a step to its end."""

    def __init__(self) -> None:
        self._kept: list[tuple[nn.Module, str, Tensor]] = []

    def keep(self, module: nn.Module) -> None:
        """Before each forward pass; only the first since the last step counts."""
        if not self._kept:
            self._kept = [
                (part, name, buffer.detach().clone())
                for part in module.modules()
                for name, buffer in part._buffers.items()
                if buffer is not None
            ]

    @torch.no_grad()
    def end(self, left_out: Tensor | None) -> None:
        """Put back what there was, if the step is left out; an accelerator is not asked.

        Args:
            left_out: bool 0-d; None where the step is taken in any case.
        """
        kept, self._kept = self._kept, []
        if left_out is None or (left_out.device.type == "cpu" and not left_out):
            return
        for part, name, old in kept:
            now = part._buffers[name]
            if now is not None and now.shape == old.shape:
                now.copy_(torch.where(left_out.to(now.device), old, now))
