"""How well the student does on those rows of the source that look like the target."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.validators.base import Answers, TargetValidator

_HIGHEST: Final = 60.0
"""Of the log of a ratio, so that squares of ratios stay finite."""


def density_ratio(source: Tensor, target: Tensor, folds: int = 2, l2: float = 0.1) -> Tensor:
    """w_i = p_T(x_i) / p_S(x_i) for each source row: (n_S / n_T) exp(a . x_i + b).

    a and b are those of a logistic regression that tells target rows (1) from source rows (0), the minimum of
    mean_j log(1 + exp(-s_j (a . x_j + b))) + l2/2 ||a||^2 with s_j = 1 for target rows and -1 for others. The
    rows are standardised first. No row is weighed by a regression that has seen it: those of number
    k, k + folds, ... are weighed by one fitted to all others, with their n_S and n_T. Order the rows at
    random, or by ids.

    Args:
        source: x, "n dim", features.
        target: "m dim".
        folds: Number of regressions, 2 or more.
        l2: How strongly the coefficients are pulled to 0, and so the weights to 1. The default is near the
            best for Gaussians with 16 to 256 features and 300 to 2000 rows, whose true ratio is known.

    Returns:
        float64 "n"; 1 where one side has fewer than two rows.

    Source: Bickel et al., Discriminative Learning for Differing Training and Test Distributions (ICML 2007).
    The code of DEV (see `importance_weighted_risk`) fits a network with three hidden layers to training rows
    of the source instead, and takes of nine weight decays the one with the best held-out accuracy.

    >>> x = torch.linspace(0, 3, 40)[:, None]
    >>> w = density_ratio(x, x + 1)
    >>> bool(w[:10].max() < 1 < w[-10:].min())
    True
    """
    x, y = source.detach().double(), target.detach().double()
    weights = torch.ones(len(x), dtype=torch.float64, device=x.device)
    if min(len(x), len(y)) < 2:
        return weights
    mine, theirs = (torch.arange(len(side), device=x.device) % folds for side in (x, y))
    for fold in range(min(folds, len(x))):
        seen, known = x[mine != fold], y[theirs != fold]
        rows = torch.cat([seen, known])
        mean, spread = rows.mean(dim=0), rows.std(dim=0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        of_target = (torch.arange(len(rows), device=x.device) >= len(seen)).double()
        a = _logistic_regression((rows - mean) / spread, of_target, l2)
        log_odds = (x[mine == fold] - mean) / spread @ a[:-1] + a[-1]
        weights[mine == fold] = len(seen) / len(known) * log_odds.clamp(max=_HIGHEST).exp()
    return weights


def importance_weighted_risk(errors: Tensor, weights: Tensor, control_variate: bool = True) -> Tensor:
    """mean_i w_i l_i + eta (mean_i w_i - 1), with eta = -Cov(w l, w) / Var(w), or 0 without control variate.

    The mean is an unbiased estimate of the target's risk for exact weights. Their own mean is then known to
    be 1; the control variate takes out what its deviation explains.

    Args:
        errors: l, "n", of labelled source rows, such as 1 where the answer is wrong and 0 elsewhere.
        weights: w, "n", see `density_ratio`.
        control_variate: Whether eta is as above, with Cov and Var that divide by n - 1.

    Returns:
        0-d float64 tensor; 0 where there is no row. With weights that are not exact it may be below 0, or
        above the largest error.

    Source: without control variate IWCV: Sugiyama et al., Covariate Shift Adaptation by Importance Weighted
    Cross Validation (JMLR 2007); with it DEV: You et al., Towards Accurate Model Selection in Deep
    Unsupervised Domain Adaptation (ICML 2019).

    >>> importance_weighted_risk(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.5])).item()
    0.75
    """
    w = weights.double()
    weighted = w * errors.double()
    if not len(w):
        return weighted.sum()
    eta = w.new_zeros(())
    if control_variate and len(w) > 1 and w.var() > 0:
        eta = -torch.cov(torch.stack([weighted, w]))[0, 1] / w.var()
    return weighted.mean() + eta * (w.mean() - 1)


class ImportanceWeightedRisk(TargetValidator):
    """1 - `importance_weighted_risk`, an estimate of the accuracy in the target, from labels of the source.

    An error is an answer whose most likely class is not the label, and the weights are those of
    `density_ratio` on one layer. Logged as `importance_weighted_accuracy`, since higher is better. Only
    labelled rows of the source take part.

    It assumes that the same input has the same label in both domains, and that the source has rows wherever
    the target has some. Where the two can be told apart without error no row of the source looks like the
    target: all weights are near 0, and the value says nothing. Features that training has made alike in both
    domains get weights near 1, and the value is the source's accuracy, however wrong the target's is.

    Args:
        layer: Features, as a name for `ModelOutput.at`; the output of a module only where a term of the
            module reads it too. Rows that lack the modality of "features.<modality>" are left out.
        control_variate: True is DEV, False is IWCV.
        l2: As for `density_ratio`.

    Raises:
        ConfigError: If `l2` is not above 0; in validation, if there is no such layer.

    Source: as `importance_weighted_risk`.
    """

    name: ClassVar[str] = "importance_weighted_accuracy"
    needs_source: ClassVar[bool] = True

    def __init__(self, layer: str = "embedding", control_variate: bool = True, l2: float = 0.1) -> None:
        super().__init__()
        if not l2 > 0:
            raise ConfigError(
                where="ImportanceWeightedRisk.l2",
                found=l2,
                expected="a number above 0: without it, domains that can be told apart have no regression",
                fix="leave it at 0.1",
            )
        self.layer, self.control_variate, self.l2 = layer, control_variate, l2

    def score(self, source: Answers, target: Answers) -> Tensor:
        """A share, 1 where there is no error; see `importance_weighted_risk`."""
        errors = source.logits.argmax(dim=1) != source.labels
        weights = density_ratio(source.features, target.features, l2=self.l2)
        return 1 - importance_weighted_risk(errors, weights, self.control_variate)


def _logistic_regression(x: Tensor, y: Tensor, l2: float) -> Tensor:
    """Coefficients and, last, the intercept: float64 "dim + 1"."""
    # Lightning validates in inference mode, whose tensors cannot have a gradient.
    with torch.inference_mode(False), torch.enable_grad():
        x, y = x.clone(), y.clone()
        a = x.new_zeros(x.shape[1] + 1).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [a], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.binary_cross_entropy_with_logits(x @ a[:-1] + a[-1], y)
            value = value + l2 / 2 * a[:-1].square().sum()
            value.backward()
            return value

        optimizer.step(loss)  # type: ignore[arg-type]
    return a.detach()
