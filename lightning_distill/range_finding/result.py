"""What a search for a range found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_distill.range_finding.quantiles import Quantiles
from lightning_distill.range_finding.search import Ladder
from lightning_distill.range_finding.trials import Goal, Plateau, Trial


@dataclass(frozen=True)
class ClipRangeResult:
    """What was found.

    Attributes:
        quantiles: Group -> quantiles of what the clip would see: "all", each modality, "rest".
        ladder: The ranges that were worth a trial.
        trials: In the order they were made; the first without a clip, at the rate the module comes with.
        chosen: The one to use.
        goal: What was compared.
        plateaus: Ranges that cannot be told apart.
        untrained: The metric before any training; None where it is not finite.
    """

    quantiles: Mapping[str, Quantiles]
    ladder: Ladder
    trials: tuple[Trial, ...]
    chosen: Trial
    goal: Goal
    plateaus: tuple[Plateau, ...]
    untrained: float | None = None

    @property
    def learnt(self) -> bool:
        """Whether the chosen training ended well, and better than the untrained model."""
        value = self.chosen.value
        if value is None or self.untrained is None:
            return value is not None
        return self.goal.worth(value) > self.goal.worth(self.untrained)
