"""Answers for a domain in which the classes come in other shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from lightning_distill.errors import ConfigError
from lightning_distill.knowledge_fusion.base import Floats, FusionContext, FusionStep
from lightning_distill.structures import UNLABELLED

_ROUNDS: Final = 10_000
_TOLERANCE: Final = 1e-9


def corrected(probabilities: Floats, teacher_prior: Floats, prior: Floats) -> Floats:
    """q_ic = p_ic prior_c / teacher_prior_c, each row divided by its sum.

    A row that has only classes of prior 0 stays as it is.

    Args:
        probabilities: float64 "samples classes".
        teacher_prior: float64 "classes", above 0: the classes' shares where the teacher learned.
        prior: float64 "classes": their shares in the new domain.

    >>> corrected(np.array([[0.5, 0.5]]), np.array([0.5, 0.5]), np.array([0.8, 0.2])).round(3)
    array([[0.8, 0.2]])

    Source: Saerens, Latinne and Decaestecker, "Adjusting the outputs of a classifier to new a priori
    probabilities: a simple procedure" (Neural Computation 14(1), 2002), equation 2.4.
    """
    weighed = probabilities * (prior / teacher_prior)
    total = weighed.sum(axis=1, keepdims=True)
    return np.where(total > 0, weighed / np.where(total > 0, total, 1), probabilities)


def estimated_prior(probabilities: Floats, teacher_prior: Floats) -> Floats:
    """The classes' shares in a new domain, without its labels, by expectation maximisation.

    prior <- mean over i of corrected(p_i, teacher_prior, prior), from prior = teacher_prior, until no share
    changes by more than 1e-9, at most 10,000 times. It is the likeliest prior if p(x | class) is as it was
    where the teacher learned, and the teacher's probabilities are right there.

    Args:
        probabilities: float64 "samples classes", of the new domain.
        teacher_prior: float64 "classes", above 0.

    Returns:
        float64 "classes"; `teacher_prior` where there is no sample.

    >>> sure = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> estimated_prior(sure, np.array([0.5, 0.5]))
    array([0.75, 0.25])

    Source: Saerens et al. (2002), equation 2.9.
    """
    prior = teacher_prior / teacher_prior.sum()
    for _ in range(_ROUNDS if len(probabilities) else 0):
        last, prior = prior, corrected(probabilities, teacher_prior, prior).mean(axis=0)
        if np.abs(prior - last).max() <= _TOLERANCE:
            break
    return prior


@dataclass(frozen=True)
class PriorCorrection(FusionStep):
    """q(c | x) proportional to p(c | x) prior_c / teacher_prior_c, for the samples of the new domain.

    The correction trusts the teacher's probabilities as they are. A teacher that is too sure of itself, or
    that errs towards a class in the new domain, makes the estimated prior worse than none: look at the
    classes' counts before and after.

    Args:
        prior: Share of each class in the new domain, in the order of the data's classes; None estimates it
            from all the teacher's answers there, see `estimated_prior`.
        teacher_prior: Share of each class where the teacher learned; None takes the shares among the
            labelled samples of the source domains.

    Raises:
        ConfigError: If these are no shares; in `apply`, if they are not one a class, or if the source has no
            labelled sample of some class.

    >>> context = FusionContext(np.array([True]), np.array([UNLABELLED]), None)
    >>> PriorCorrection([0.8, 0.2], [0.5, 0.5]).apply(np.array([[0.5, 0.5]]), context).round(3)
    array([[0.8, 0.2]])

    Source: Saerens et al. (Neural Computation 14(1), 2002), equations 2.4 and 2.9.
    """

    prior: Sequence[float] | None = None
    teacher_prior: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name, least in (("prior", 0.0), ("teacher_prior", float(np.nextafter(0, 1)))):
            shares = getattr(self, name)
            if shares is None:
                continue
            values = np.asarray(shares, float)
            good = values.ndim == 1 and bool(np.isfinite(values).all()) and bool((values >= least).all())
            if not good or abs(float(values.sum()) - 1) > 1e-3:
                raise ConfigError(
                    where=f"PriorCorrection.{name}",
                    found=list(shares),
                    expected=f"a share {'above 0' if least else 'of 0 or more'} for each class, in sum 1",
                    fix="divide the counts of the classes by their sum",
                )

    def apply(self, probabilities: Floats, context: FusionContext) -> Floats:
        """Correct the rows of the new domain."""
        classes = probabilities.shape[1]
        taught = self._shares("teacher_prior", self.teacher_prior, classes)
        taught = self._of_labels(context, classes) if taught is None else taught
        answers = probabilities[context.target]
        prior = self._shares("prior", self.prior, classes)
        prior = estimated_prior(answers, taught) if prior is None else prior
        found = probabilities.copy()
        found[context.target] = corrected(answers, taught, prior)
        return found

    @staticmethod
    def _shares(name: str, shares: Sequence[float] | None, classes: int) -> Floats | None:
        if shares is None:
            return None
        if len(shares) != classes:
            raise ConfigError(
                where=f"PriorCorrection.{name}",
                found=f"{len(shares)} shares",
                expected=f"{classes}, one for each class of the data",
                fix="give them in the order of the data's classes",
            )
        values = np.asarray(shares, float)
        return values / values.sum()

    @staticmethod
    def _of_labels(context: FusionContext, classes: int) -> Floats:
        labels = context.label[~context.target & (context.label != UNLABELLED)]
        counts = np.bincount(labels, minlength=classes)
        if not counts.all():
            raise ConfigError(
                where="PriorCorrection.teacher_prior",
                found=f"no labelled source samples for {int((counts == 0).sum())} of {classes} classes, "
                f"numbers {np.flatnonzero(counts == 0)[:8].tolist()}",
                expected="the share of each class where the teacher learned",
                fix="give teacher_prior",
            )
        return counts / counts.sum()
