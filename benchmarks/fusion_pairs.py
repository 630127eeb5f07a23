"""Which plain head stands beside which of the package, and how it gets the other's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import fusion_minimal as minimal
import fusion_minimal_tokens as tokens
from torch import Tensor, nn

from lightning_distill.fusion import FusionHead

State = dict[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """A head of the package by name, and the plain one.

    Attributes:
        name: Class of the package.
        cls: Class of the plain one, made from the widths in alphabetical order of the modalities.
        renamed: Parts of parameters' names that are called otherwise there.
    """

    name: str
    cls: Callable[[Sequence[int]], nn.Module]
    renamed: tuple[tuple[str, str], ...] = ()

    def plain(self, head: FusionHead) -> nn.Module:
        """The plain one with the same weights."""
        found = self.cls(list(head.feature_dims.values()))
        found.load_state_dict({self._name(key, head): value for key, value in head.state_dict().items()})
        return found

    def _name(self, key: str, head: FusionHead) -> str:
        numbers = {m: str(i) for i, m in enumerate(head.modalities)}
        key = ".".join(numbers.get(part, part) for part in key.split("."))
        for ours, plain in self.renamed:
            key = key.replace(ours, plain)
        return key


PAIRS = (
    Pair("AttentionFusion", tokens.Attention),
    Pair("ConcatFusion", minimal.Concat),
    Pair("GatedFusion", minimal.Gated),
)
