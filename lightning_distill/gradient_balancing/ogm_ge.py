"""OGM-GE: the modality that is ahead learns more slowly, and noise is added."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_balancing.base import (
    GradientBalancer,
    StudentView,
    one_label,
    summed,
    truth_probability,
    two_or_more,
)
from lightning_distill.gradients import Gradients
from lightning_distill.randomness import derive

_SMALLEST_DEVIATION: Final = 1e-8


def modulation(scores: Tensor, there: Tensor, alpha: float, continuous: bool = False) -> Tensor:
    """k_m = 1 - tanh(alpha * rho_m) where rho_m > 1, else 1; rho_m = s_m / (mean of the other scores).

    With two modalities this is the paper's k. It jumps at rho = 1, from 1 to 1 - tanh(alpha). The continuous
    form is 1 - tanh(alpha * max(rho_m - 1, 0)).

    Args:
        scores: s, "modalities", positive.
        there: bool "modalities"; one that is not there has k = 1 and is not among the others.
        alpha: How strongly the one ahead is held back, 0 or more.
        continuous: Take the continuous form.

    Returns:
        "modalities", from 0 to 1.

    Source: Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation (2203.15332),
    section 3 and equation 10. The paper has two modalities.

    >>> there = torch.tensor([True, True])
    >>> modulation(torch.tensor([0.2, 0.4]), there, 0.5).tolist()
    [1.0, 0.2384...]
    """
    scores = torch.where(there, scores, 0.0)
    count = there.sum()
    others = (scores.sum() - scores) / (count - 1).clamp(min=1)
    rho = scores / others.clamp(min=torch.finfo(scores.dtype).tiny)
    ahead = there & (count > 1) & (rho > 1)
    return torch.where(ahead, 1 - torch.tanh(alpha * (rho - 1 if continuous else rho)), 1.0)


class OGMGE(GradientBalancer):
    """g <- k_m * g + h on the encoder of each modality m, k as in `modulation`, h ~ N(0, (std(g) + 1e-8)^2).

    s_m is the mean of softmax(z_m)_y over the labelled samples of the step, on all processes, that have m;
    z_m is what the student answers from m alone. std(g) is over the entries of each tensor. The noise is a
    function of (seed, step), and the same on all processes. A modality that no sample of the step has is left
    alone. Costs one pass a modality through fusion and head, without gradient.

    Args:
        alpha: How strongly the modality ahead is held back, 0 or more.
        noise: Whether h is added.
        continuous: Let k start from 1 at rho = 1 instead of jumping.
        first_epoch: Epochs before it, counted from 0, are left alone.
        last_epoch: Epochs after it are left alone.

    Raises:
        ConfigError: If a setting is out of range; at the first batch, if there is only one modality, or a
            sample has not just one class.

    Source: Peng et al. (2203.15332), section 3. The authors' code splits the weights of a concatenating head
    to find z_m, and edits convolutions only, so that a transformer is left as it was; here z_m is what the
    head says when the others are absent, and every tensor of the encoder is edited. Their standard deviation
    divides by n - 1, here it is n: a tensor of one entry gets next to no noise.
    """

    def __init__(
        self,
        alpha: float,
        noise: bool = True,
        continuous: bool = False,
        first_epoch: int = 0,
        last_epoch: int = 50,
    ) -> None:
        super().__init__()
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ConfigError(
                where="OGMGE.alpha", found=alpha, expected="a number of 0 or more", fix="try 0.5"
            )
        if not 0 <= first_epoch <= last_epoch:
            raise ConfigError(
                where="OGMGE.first_epoch, last_epoch",
                found=(first_epoch, last_epoch),
                expected="0 <= first_epoch <= last_epoch",
                fix="try 0 and 50",
            )
        self.alpha, self.noise, self.continuous = alpha, noise, continuous
        self.first_epoch, self.last_epoch = first_epoch, last_epoch
        self._found: Tensor | None = None
        self._modalities: tuple[str, ...] = ()
        self._seed = 0

    def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
        """The terms as they are; scores are noted."""
        self._modalities, self._seed = two_or_more(view, "OGMGE"), view.seed
        one_label(view, "OGMGE")
        if self.first_epoch <= view.epoch <= self.last_epoch:
            with torch.no_grad():
                found = torch.stack([self._score(view, m) for m in self._modalities])
            self._found = found if self._found is None else self._found + found
        return dict(weighted)

    def _score(self, view: StudentView, modality: str) -> Tensor:
        """Sum of softmax(z_m)_y, and how many there are."""
        rows = view.present[modality] & view.labelled
        values = truth_probability(view.answer_from((modality,)), view.target)
        return torch.stack([torch.where(rows, values, 0.0).sum(), rows.sum().to(values.dtype)])

    def balance(
        self, gradients: Gradients, by_term: Mapping[str, Sequence[Tensor | None]]
    ) -> dict[str, Tensor]:
        """Scale the encoders' gradients, and add noise.

        Returns:
            "modulation/<modality>": k; "score/<modality>": s.
        """
        if self._found is None:
            return {}
        sums, counts = summed(self._found).unbind(dim=1)
        self._found = None
        scores, there = sums / counts.clamp(min=1), counts > 0
        k = modulation(scores, there, self.alpha, self.continuous)
        for i, modality in enumerate(self._modalities):
            part = gradients.under(f"encoders.{modality}")
            if not len(part):
                continue
            deviations = torch.where(there[i], _deviations(part), 0.0) if self.noise else None
            part.scale(k[i])
            if deviations is not None:
                _add_noise(part, deviations, derive(self._seed, "OGMGE", gradients.step, modality))
        return {f"modulation/{m}": k[i] for i, m in enumerate(self._modalities)} | {
            f"score/{m}": scores[i] for i, m in enumerate(self._modalities)
        }

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"alpha={self.alpha}, noise={self.noise}, continuous={self.continuous}, "
            f"first_epoch={self.first_epoch}, last_epoch={self.last_epoch}"
        )


def _deviations(part: Gradients) -> Tensor:
    """Standard deviation over the entries of each whole tensor, "tensors", with 1e-8 added."""
    device = part.device
    wide = [g.float() if g.dtype.itemsize < 4 else g for g in part.local]
    sums = torch.stack([torch.stack([g.sum(), g.new_full((), g.numel())]).float().to(device) for g in wide])
    totals, sizes = part.total(sums).unbind(dim=1)
    means = totals / sizes.clamp(min=1)
    squares = [(g - means[i].to(g)).square().sum().float().to(device) for i, g in enumerate(wide)]
    return (part.total(torch.stack(squares)) / sizes.clamp(min=1)).sqrt() + _SMALLEST_DEVIATION


def _add_noise(part: Gradients, deviations: Tensor, seed: int) -> None:
    """Add normal noise; processes that hold different parts of a tensor draw different numbers."""
    generators: dict[tuple[object, ...], torch.Generator] = {}
    for i, grad in enumerate(part.local):
        place = tuple(dist.get_rank(group) for group, at in part.splits if i in at)
        key = (grad.device, *place)
        if key not in generators:
            generators[key] = torch.Generator(grad.device).manual_seed(derive(seed, *place))
        dtype = torch.promote_types(grad.dtype, torch.float32)
        drawn = torch.randn(grad.shape, generator=generators[key], device=grad.device, dtype=dtype)
        grad.add_(drawn.mul_(deviations[i].to(drawn)).to(grad.dtype))
