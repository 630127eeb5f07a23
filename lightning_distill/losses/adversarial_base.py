"""The contract of an adversarial alignment term: a discriminator, and a student that deceives it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_reversal import reverse_gradient
from lightning_distill.losses.alignment_base import AlignmentLoss
from lightning_distill.losses.base import Adapted, Shapes
from lightning_distill.schedules import Schedule, SigmoidRamp, value_at
from lightning_distill.structures import Batch, ModelOutput


def domain_cross_entropy(
    source: Tensor, target: Tensor, source_weight: Tensor | None = None, target_weight: Tensor | None = None
) -> Tensor:
    """(1/2) * [sum_i v_i log(1 + e^{d_i}) / sum_i v_i + sum_j w_j log(1 + e^{-d_j}) / sum_j w_j], in nats.

    Binary cross-entropy of the domain, both sides weighted equally whatever their numbers: log 2 for a
    discriminator that knows nothing.

    Args:
        source: d_i, "n": log-odds a discriminator gives that a source row is of the target domain.
        target: d_j, "m": the same of target rows.
        source_weight: v, "n", above 0; 1 where not given.
        target_weight: w, "m".

    Returns:
        0-d tensor >= 0; 0, with a gradient of 0, where a side is empty.

    Source: Ganin et al., Domain-Adversarial Training of Neural Networks (1505.07818), section 4.2, whose
    sum of the two sides' means is twice this; most published code has the mean. The weights are those of CDAN
    (1705.10667), section 3, divided by their sum on each side as in the authors' code.

    >>> round(domain_cross_entropy(torch.zeros(3), torch.zeros(5)).item(), 4)
    0.6931
    """
    if not len(source) or not len(target):
        return source[:0].sum() + target[:0].sum()
    wide = torch.promote_types(source.dtype, torch.float32)
    sides = (-F.logsigmoid(-source.to(wide)), source_weight), (-F.logsigmoid(target.to(wide)), target_weight)
    means = [x.mean() if w is None else (w * x).sum() / w.sum() for x, w in sides]
    return ((means[0] + means[1]) / 2).to(source.dtype)


class AdversarialLoss(Adapted, AlignmentLoss):
    """A discriminator learns to tell the domains apart, and the student to leave it nothing to go by.

    Linear layers with ReLU, dropout in between, stand on `reverse_gradient`. It is built once the width is
    known. Several source or target domains count as one source and one target. With several processes the
    term is the mean of theirs, which DDP makes of gradients by itself.

    Args:
        layer: As for `AlignmentLoss`.
        hidden: Widths of the discriminator's hidden layers; none is a linear discriminator.
        dropout: After each hidden layer, in [0, 1).
        factor: lambda >= 0 that multiplies the reversed gradient, or how it changes; None is
            `SigmoidRamp()`. The discriminator learns with a factor of 1 at all times.

    Raises:
        ConfigError: If a setting is out of range.
    """

    discriminator: nn.Sequential

    def __init__(
        self, layer: str, hidden: Sequence[int], dropout: float, factor: float | Schedule | None
    ) -> None:
        super().__init__(layer)
        fixed = factor if isinstance(factor, int | float) else 0.0
        if any(width < 1 for width in hidden) or not 0 <= dropout < 1 or not 0 <= fixed < math.inf:
            raise ConfigError(
                where=type(self).__name__,
                found=f"hidden {list(hidden)}, dropout {dropout}, factor {factor}",
                expected="widths of 1 or more, a dropout in [0, 1) and a factor of 0 or more",
                fix="try hidden: [1024, 1024], dropout: 0.0, factor: 1.0",
            )
        self.hidden, self.dropout = tuple(hidden), dropout
        self.factor: float | Schedule = SigmoidRamp() if factor is None else factor
        self.factor_now = value_at(self.factor, 0, 0)
        """lambda of the present optimizer step."""

    def begin_step(self, step: int, epoch: int) -> None:
        """Take the factor of this optimizer step."""
        self.factor_now = value_at(self.factor, step, epoch)

    @abstractmethod
    def width(self, student: Shapes) -> int:
        """Numbers the discriminator reads of a row.

        Args:
            student: Shape of each of `student_layers`.
        """

    def build(self, student: Shapes, teacher: Shapes) -> None:
        """Make the discriminator."""
        widths, parts = [self.width(student), *self.hidden], list[nn.Module]()
        for before, after in pairwise(widths):
            parts += [nn.Linear(before, after), nn.ReLU()]
            if self.dropout:
                parts.append(nn.Dropout(self.dropout))
        self.discriminator = nn.Sequential(*parts, nn.Linear(widths[-1], 1))

    def rows(self, student: ModelOutput) -> Tensor:
        """What `align` is told of each row, "batch ...": the layer, unless a term needs more."""
        return student.at(self.student_layers[0])

    def discriminate(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds of the target domain, "n" and "m", of what the student has made.

        Args:
            source: "n width".
            target: "m width".
        """
        x = reverse_gradient(torch.cat([source, target]), self.factor_now)
        odds = self.discriminator(x.to(next(self.discriminator.parameters()).dtype))[:, 0]
        return odds[: len(source)], odds[len(source) :]

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> Tensor:
        """0-d tensor, nats: the discriminator's loss, in training and in evaluation."""
        # Unlike other alignment terms it goes on where a side is empty: DDP waits for every parameter.
        value = self.align(*self.sides(self.rows(student), student, batch))
        return value.to(student.at(self.student_layers[0]).dtype)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"layer={self.student_layers[0]!r}, factor={self.factor_now:.3g}"
