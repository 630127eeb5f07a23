"""Training samples on which the teacher is sure of another class than the label."""

from __future__ import annotations

from typing import NamedTuple

import torch

from lightning_distill.explanation.answers import TEACHER, Answers


class Misleading(NamedTuple):
    """Samples on which the teacher misleads.

    Attributes:
        ids: Of the clearest, the clearest first.
        total: How many there are.
    """

    ids: tuple[int, ...] = ()
    total: int = 0


def misleading_samples(answers: Answers, most: int = 1000) -> Misleading:
    """Samples that confident learning puts into another class than their label's.

    t_j is the mean of p(j | x) over the samples with label j. Sample x is counted as j, the most likely of
    the classes with p(j | x) >= t_j; it misleads where there is such a j and it is not the label. Either
    teacher or label is wrong there. A teacher that was trained on these samples knows them by heart, so that
    less is found than there is.

    Args:
        answers: Of the teacher, on the training split.
        most: Samples; those with the largest p(j | x) - p(label | x) are named.

    Returns:
        Their ids, and how many there are; none where the teacher was not asked.

    Source: Northcutt et al., Confident Learning (1911.00068), section 3.1, equation 1 and 2; ties go to the
        lower class.
    """
    if TEACHER not in answers.probabilities or not len(answers.target):
        return Misleading()
    p, target = answers.probabilities[TEACHER].double(), answers.target
    labelled = torch.nn.functional.one_hot(target, p.shape[1]).bool()
    counts = labelled.sum(dim=0)
    mean = p.masked_fill(~labelled, 0).sum(dim=0) / counts.clamp(min=1)
    thresholds = mean.masked_fill(counts == 0, torch.inf)  # of a class without a sample nothing is known
    likely = p.masked_fill(p < thresholds, -1)
    best, said = likely.max(dim=1)
    margin = best - p.gather(1, target[:, None])[:, 0]
    found = ((best >= 0) & (said != target)).nonzero()[:, 0]
    order = found[margin[found].argsort(descending=True, stable=True)]
    ids = tuple(dict.fromkeys(answers.sample_id[order].tolist()))
    return Misleading(ids[:most], len(ids))
