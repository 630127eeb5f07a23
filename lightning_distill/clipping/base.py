"""The contract of a clip rule: it edits gradients in place, between backward and optimizer step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class ClipRule(nn.Module, ABC):
    """Edits `.grad` in place. History, where a rule has one, lives in buffers and so in checkpoints."""

    @abstractmethod
    def clip(self, parameters: Sequence[nn.Parameter], *, measure: bool = False) -> dict[str, Tensor]:
        """Clip the gradients of `parameters`; those without a gradient are passed over.

        Args:
            parameters: What one optimizer steps; gradients must be unscaled.
            measure: Also measure what the rule does; costs extra passes over the gradients.

        Returns:
            Name -> 0-d tensor to log, on the parameters' device (no synchronisation); empty unless
            `measure`.
        """
