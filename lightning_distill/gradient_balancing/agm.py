"""AGM: encoders learn faster or more slowly, so that no modality runs ahead of its running mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_balancing.base import (
    GradientBalancer,
    Memory,
    StudentView,
    one_label,
    summed,
    truth_probability,
    two_or_more,
)
from lightning_distill.gradients import Gradients

_MOST_MODALITIES: Final = 4
_SMALLEST_PROBABILITY: Final = 1e-8
_LARGEST_DIFFERENCE: Final = 10.0


def shapley_values(answers: Mapping[frozenset[str], Tensor], modalities: Sequence[str]) -> dict[str, Tensor]:
    """phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! * (v(S + m) - v(S)), where v of none is 0.

    They add up to v of all.

    Args:
        answers: v, set of modalities -> tensor, for every set but the empty one.
        modalities: All M of them.

    Returns:
        modality -> phi_m.

    Source: Li et al., Boosting Multi-modal Model Performance with Adaptive Gradient Modulation (2308.07686),
    section 3.

    >>> v = {frozenset("a"): 1.0, frozenset("b"): 2.0, frozenset("ab"): 5.0}
    >>> shapley_values({s: torch.tensor(x) for s, x in v.items()}, ("a", "b"))
    {'a': tensor(2.), 'b': tensor(3.)}
    """
    count, nothing = len(modalities), torch.zeros_like(answers[frozenset(modalities)])
    values = {}
    for m in modalities:
        value, others = nothing, [o for o in modalities if o != m]
        for size in range(count):
            share = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for some in combinations(others, size):
                without = answers[frozenset(some)] if some else nothing
                value = value + share * (answers[frozenset((*some, m))] - without)
        values[m] = value
    return values


def lead(scores: Tensor, there: Tensor) -> Tensor:
    """r_m = exp(mean over the other modalities j of (s_j - s_m)); 1 where there is no other.

    Args:
        scores: s, "modalities", mean cross-entropy in nats.
        there: bool "modalities"; one that is not there has r = 1 and is not among the others.

    Returns:
        "modalities"; above 1 where a modality is better than the others.

    Source: 2308.07686, section 3; for two modalities r_1 = exp(s_2 - s_1).

    >>> lead(torch.tensor([1.0, 2.0]), torch.tensor([True, True])).tolist()
    [2.718..., 0.367...]
    """
    scores = torch.where(there, scores, 0.0)
    count = there.sum()
    others = (scores.sum() - scores) / (count - 1).clamp(min=1)
    return torch.where(there & (count > 1), torch.exp(others - scores), 1.0)


class AGM(GradientBalancer):
    """g <- kappa_m * g on the encoder of each modality m, kappa_m = exp(alpha * (tau_m - r_m)).

    s_m is the mean cross-entropy of phi_m, the modality's Shapley share of the logits, over the labelled
    samples of the step, on all processes, that have m. r is `lead` of s, tau is `lead` of the means of s over
    all steps before, and 1 for a modality not seen before. tau - r counts as 10 where it is more. A modality
    that no sample of the step has is left alone. Costs 2^M - 2 passes through fusion and head, without
    gradient.

    Args:
        alpha: How strongly, 0 or more.

    Raises:
        ConfigError: If alpha is negative; at the first batch, if there are fewer than 2 or more than 4
            modalities, or a sample has not just one class.

    Source: Li et al. (2308.07686), section 3. The value of no modality at all is 0, as in the authors' code,
    and a probability below 1e-8 counts as that. They scale the gradient that flows into phi_m, which reaches
    the head too; here it is that of the encoder, which is the same for the encoders under a head that is
    linear in the features. The bound of 10 is ours: without it one bad step can make kappa infinite.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ConfigError(where="AGM.alpha", found=alpha, expected="a number of 0 or more", fix="try 1.0")
        self.alpha = alpha
        self.means, self.steps = Memory(), Memory()
        self._found: Tensor | None = None
        self._modalities: tuple[str, ...] = ()

    def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
        """The terms as they are; scores are noted."""
        self._modalities = two_or_more(view, "AGM")
        one_label(view, "AGM")
        if len(self._modalities) > _MOST_MODALITIES:
            raise ConfigError(
                where="AGM",
                found=f"{len(self._modalities)} modalities",
                expected=f"{_MOST_MODALITIES} or fewer: it needs an answer from every set of them",
                fix="take OGMGE, which needs one from each",
            )
        with torch.no_grad():
            shares = shapley_values(self._answers(view), self._modalities)
            found = torch.stack([self._score(view, m, shares[m]) for m in self._modalities])
        self._found = found if self._found is None else self._found + found
        return dict(weighted)

    def _answers(self, view: StudentView) -> dict[frozenset[str], Tensor]:
        """0 where a sample has none of the modalities: one that is absent then has no share."""
        answers = {}
        for size in range(1, len(self._modalities) + 1):
            for some in combinations(self._modalities, size):
                every = size == len(self._modalities)
                logits = view.logits.detach() if every else view.answer_from(some)
                missing = ~torch.stack([view.present[m] for m in some]).any(dim=0)
                wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
                answers[frozenset(some)] = wide.masked_fill(missing[:, None], 0.0)
        return answers

    def _score(self, view: StudentView, modality: str, share: Tensor) -> Tensor:
        """Sum of the cross-entropy, and how many there are."""
        rows = view.present[modality] & view.labelled
        values = -truth_probability(share, view.target).clamp(min=_SMALLEST_PROBABILITY).log()
        return torch.stack([torch.where(rows, values, 0.0).sum(), rows.sum().to(values.dtype)])

    def balance(
        self, gradients: Gradients, by_term: Mapping[str, Sequence[Tensor | None]]
    ) -> dict[str, Tensor]:
        """Scale the encoders' gradients.

        Returns:
            "modulation/<modality>": kappa; "score/<modality>": s.
        """
        if self._found is None:
            return {}
        sums, counts = summed(self._found).float().unbind(dim=1)
        self._found = None
        scores, there = sums / counts.clamp(min=1), counts > 0
        means = [self.means.at(m, scores[0]) for m in self._modalities]
        steps = [self.steps.at(m, scores[0]) for m in self._modalities]
        before = there & (torch.stack(steps) > 0)
        difference = lead(torch.stack(means), before) - lead(scores, there)
        kappa = torch.exp(self.alpha * difference.clamp(max=_LARGEST_DIFFERENCE))
        kappa = torch.where(there & (there.sum() > 1), kappa, 1.0)
        for i, modality in enumerate(self._modalities):
            gradients.under(f"encoders.{modality}").scale(kappa[i])
            if gradients.fresh:
                moves = there[i] & scores[i].isfinite()
                steps[i].add_(moves)
                means[i].add_(torch.where(moves, (scores[i] - means[i]) / steps[i].clamp(min=1), 0.0))
        return {f"modulation/{m}": kappa[i] for i, m in enumerate(self._modalities)} | {
            f"score/{m}": scores[i] for i, m in enumerate(self._modalities)
        }

    def extra_repr(self) -> str:
        """Show the setting."""
        return f"alpha={self.alpha}"
