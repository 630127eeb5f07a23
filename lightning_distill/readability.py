"""How much of a teacher's answers a modality can tell, and how alike two sets of answers are."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from lightning_distill import losses
from lightning_distill.errors import ConfigError

PENALTIES: Final = tuple(10.0**power for power in range(-4, 4))
"""Ridge penalties to choose from, as shares of the features' mean squared singular value."""
FOLDS: Final = 5


def read_out(features: Tensor, answers: Tensor, folds: int = FOLDS) -> Tensor:
    """Answers as a linear reader of the features predicts them for samples it was not fitted on.

    Ridge regression on centred data, in float64, W = (X'X + lambda I)^-1 X'Y. For each fold, lambda is the
    one of `PENALTIES` with the least leave-one-out error on the other folds, which is known in closed form:
    e_i / (1 - h_i - 1/n), h the diagonal of the hat matrix.

    Args:
        features: "samples dim".
        answers: "samples outputs".
        folds: Parts the samples are dealt into, by a fixed shuffle.

    Returns:
        float64 "samples outputs".

    Raises:
        ConfigError: If there are fewer than two samples a fold, or the numbers of samples differ.
    """
    check_rows(features, answers, 2 * folds)
    x, y = features.double(), answers.double()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
    predicted = torch.empty_like(y)
    for fold in range(folds):
        held, fitted = order[fold::folds], torch.cat([order[i::folds] for i in range(folds) if i != fold])
        predicted[held] = _ridge(x[fitted], y[fitted], x[held])
    return predicted


def _ridge(x: Tensor, y: Tensor, new: Tensor) -> Tensor:
    centre, mean, n = x.mean(dim=0), y.mean(dim=0), len(x)
    axes, squared = _axes(x - centre)
    turned, rest = (x - centre) @ axes, y - mean
    projected, energy = turned.T @ rest, turned.square()
    best, weights = torch.inf, projected
    for share in PENALTIES:
        penalty = (share * squared.mean()).clamp_min(torch.finfo(x.dtype).tiny)
        shrunk = 1 / (squared + penalty)
        leverage = (energy @ shrunk + 1 / n).clamp_max(1 - 1e-9)
        candidate = shrunk[:, None] * projected
        error = float(((rest - turned @ candidate) / (1 - leverage)[:, None]).square().sum())
        if error < best:
            best, weights = error, candidate
    return mean + (new - centre) @ (axes @ weights)


def _axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Principal axes "dim axes" and the squared singular value along each."""
    if x.shape[1] > x.shape[0]:
        _, s, vt = torch.linalg.svd(x, full_matrices=False)
        return vt.T, s.square()
    squared, axes = torch.linalg.eigh(x.T @ x)  # some ten times faster; the penalties forgive its rounding
    return axes, squared.clamp_min(0)


def explained(predicted: Tensor, answers: Tensor) -> float:
    """R^2 over all outputs together, 1 - sum (y - p)^2 / sum (y - mean y)^2, clipped to [0, 1].

    0 where the answers do not vary.

    >>> explained(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [2.0]]))
    1.0
    """
    y = answers.double()
    total = (y - y.mean(dim=0)).square().sum()
    if total <= torch.finfo(y.dtype).eps * y.square().sum():
        return 0.0
    return float((1 - (y - predicted.double()).square().sum() / total).clamp(0, 1))


def general_share(features: Tensor, logits: Tensor, folds: int = FOLDS) -> float:
    """How much of what the teacher says can be read from the student's modality, in [0, 1].

    The cross-validated R^2 (`explained`) of a ridge regression of the teacher's logits, centred over the
    classes, on the student's features. 0 where it predicts worse than the mean.

    Source: the idea of modality-general decisive features is that of Xue et al. (arXiv 2206.06487); measuring
    it by a regression is our own.

    Args:
        features: Of the student's modality, "samples dim".
        logits: The teacher's, "samples classes".
        folds: See `read_out`.

    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> round(general_share(x, torch.stack([x[:, 0], -x[:, 0]], dim=1)), 3)
    1.0
    """
    centred = logits.double() - logits.double().mean(dim=1, keepdim=True)
    return explained(read_out(features, centred, folds), centred)


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Likeness of two sets of features of the same samples, up to rotation and scale.

    The function of that name in `losses`, in double precision. Being unbiased, it is near 0, and may be
    below, for unrelated features; the usual estimate is near 1 where there are more dimensions than samples.
    0 where one of the two does not vary.

    Source: Kornblith et al. (arXiv 1905.00414) with the estimator of Song et al., "Feature Selection via
    Dependence Maximization", as in Nguyen et al. (arXiv 2010.15327).

    Args:
        a: "samples dim_a".
        b: "samples dim_b".

    Raises:
        ConfigError: If there are fewer than four samples, or the numbers of samples differ.

    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> round(linear_cka(x, 2 * x.flip(1)), 6)
    1.0
    """
    check_rows(a, b, 4)
    return float(losses.linear_cka(a.double(), b.double()))


def rank_agreement(teacher: Tensor, student: Tensor) -> float:
    """Mean over samples of Kendall's tau-b between the class orders of two sets of logits, in [-1, 1].

    tau = sum_(i<j) sign(t_i - t_j) sign(s_i - s_j) / sqrt(pairs untied in t * pairs untied in s). A sample
    where one of the two ties all its classes counts 0.

    Args:
        teacher: Logits or probabilities, "samples classes".
        student: Of the same shape.

    >>> rank_agreement(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 3.0, 2.0]]))  # 2 of 3 pairs
    0.3333333333333333
    """
    i, j = torch.triu_indices(teacher.shape[1], teacher.shape[1], 1)
    total = 0.0
    for t, s in zip(teacher.double().split(256), student.double().split(256), strict=True):
        a, b = (t[:, i] - t[:, j]).sign(), (s[:, i] - s[:, j]).sign()
        untied = (a.square().sum(dim=1) * b.square().sum(dim=1)).clamp_min(1)
        total += float(((a * b).sum(dim=1) / untied.sqrt()).sum())
    return total / len(teacher)


def calibration_error(logits: Tensor, target: Tensor) -> float:
    """Expected calibration error in 15 bins of the top probability, L1; torchmetrics computes it.

    Args:
        logits: "samples classes".
        target: int64 "samples", all known.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    p = logits.double().softmax(dim=1)
    return float(multiclass_calibration_error(p, target, num_classes=p.shape[1], n_bins=15, norm="l1"))


def check_rows(a: Tensor, b: Tensor, least: int) -> None:
    """Refuse samples that do not pair, or are too few.

    Raises:
        ConfigError: With both numbers.
    """
    if len(a) != len(b) or len(a) < least:
        raise ConfigError(
            where="assessment",
            found=f"{len(a)} and {len(b)} samples",
            expected=f"the same {least} samples or more in both",
            fix="give features and answers of the same samples, and more of them",
        )
