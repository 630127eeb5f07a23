"""The contract of what balances terms against each other by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn


class TermBalancer(nn.Module, ABC):
    """Adds up weighted terms with factors of its own.

    What it learns or remembers are parameters and buffers, so that they reach optimizer and checkpoint. The
    configured weights say how much each term should count; the balancer works on the terms times these.

    Args:
        names: Of the terms, "task" first.
    """

    needs_gradients: ClassVar[bool] = False
    """Whether it wants, in training, the norm of each weighted term's gradient on the student."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    @abstractmethod
    def forward(self, terms: Mapping[str, Tensor], norms: Mapping[str, Tensor] | None = None) -> Tensor:
        """The total.

        Args:
            terms: Name -> weighted term, 0-d; a term of weight 0 is not among them.
            norms: Name -> norm of the term's gradient on the student's parameters, 0-d, without gradient;
                None where not asked for and in evaluation.

        Returns:
            0-d tensor.
        """

    def factors(self) -> Mapping[str, Tensor]:
        """Name -> what the term is multiplied with now, 0-d, for logging; none by default."""
        return {}
