"""CDAN: an adversarial term that also looks at what the student says of a sample."""

from __future__ import annotations

import math
from typing import ClassVar, Final

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses.adversarial_base import AdversarialLoss, domain_cross_entropy
from lightning_distill.losses.base import Shapes
from lightning_distill.schedules import Schedule
from lightning_distill.structures import ModelOutput, Outputs

LARGEST_MAP: Final = 4096
"""Numbers up to which the whole product of features and probabilities is read; beyond, random ones of it."""


def multilinear_map(
    features: Tensor, probabilities: Tensor, random: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """T(f, p) = f (x) p, all products of one of each; or (f R_f) * (p R_p) / sqrt(d), random sums of such.

    Inner products of two rows of the second are, on average over R, those of the first.

    Args:
        features: f, "batch dim".
        probabilities: p, "batch classes".
        random: R_f "dim d" and R_p "classes d", entries of mean 0 and variance 1.

    Returns:
        "batch dim*classes", or "batch d".

    Source: Long et al., Conditional Adversarial Domain Adaptation (1705.10667), section 3.

    >>> multilinear_map(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.25, 0.75]]))
    tensor([[0.2500, 0.7500, 0.5000, 1.5000]])
    """
    if random is None:
        return (features[:, :, None] * probabilities[:, None, :]).flatten(1)
    r_f, r_p = (r.to(features.dtype) for r in random)
    return (features @ r_f) * (probabilities @ r_p) / math.sqrt(r_f.shape[1])


def entropy_weight(probabilities: Tensor) -> Tensor:
    """1 + exp(-H(p)), H(p) = -sum_c p_c log p_c in nats: from 1 + 1/C where nothing is known, to 2.

    Args:
        probabilities: p, "batch classes".

    Returns:
        "batch".

    Source: Long et al., Conditional Adversarial Domain Adaptation (1705.10667), section 3.

    >>> entropy_weight(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [1.5, 2.0]
    """
    return 1 + torch.exp(-torch.special.entr(probabilities).sum(dim=1))


class ConditionalAdversarial(AdversarialLoss):
    """`domain_cross_entropy` of D(R(T(f, p))), T the `multilinear_map` of a layer f and of p = softmax(z).

    So D is asked for the domain class by class, as far as the student knows the classes. Factor, reversal,
    clip ranges and names of parameters are those of `DomainAdversarial`.

    Args:
        layer: f, as for `AlignmentLoss`.
        hidden: Widths of the discriminator's hidden layers. The authors have 1024 and 1024.
        dropout: After each hidden layer, in [0, 1). The authors' code has 0.5.
        factor: lambda >= 0, or how it changes; None is `SigmoidRamp()`.
        entropy_weighted: Weigh rows by `entropy_weight` (CDAN+E), so that what the student is sure of counts
            for more.
        random_width: d, numbers read of the map where the whole has more than 4096.

    Raises:
        ConfigError: If a setting is out of range.

    Source: Long et al., Conditional Adversarial Domain Adaptation (1705.10667), section 3. As in the
    authors' code, no gradient reaches the classifier through p. None reaches it through the weights either,
    where the authors' code reverses one: the student is judged by its features alone.

    >>> term = ConditionalAdversarial(hidden=(), factor=1.0)
    >>> term.adapt(((16,), (10,)), ())
    >>> term.discriminator
    Sequential(
      (0): Linear(in_features=160, out_features=1, bias=True)
    )
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES})
    random_features: Tensor | None
    random_classes: Tensor | None

    def __init__(
        self,
        layer: str = "embedding",
        hidden: tuple[int, ...] = (1024, 1024),
        dropout: float = 0.0,
        factor: float | Schedule | None = None,
        entropy_weighted: bool = False,
        random_width: int = 1024,
    ) -> None:
        super().__init__(layer, hidden, dropout, factor)
        if random_width < 1:
            raise ConfigError(
                where="ConditionalAdversarial.random_width",
                found=random_width,
                expected="1 or more",
                fix="try 1024",
            )
        self.student_layers = (layer, "logits")
        self.entropy_weighted, self.random_width = entropy_weighted, random_width

    def width(self, student: Shapes) -> int:
        """That of the map, or of its random part."""
        whole = math.prod(student[0]) * student[1][0]
        return whole if whole <= LARGEST_MAP else self.random_width

    def build(self, student: Shapes, teacher: Shapes) -> None:
        """Make the discriminator, and random matrices where they are needed."""
        super().build(student, teacher)
        self.classes, dim = student[1][0], math.prod(student[0])
        needed = dim * self.classes > LARGEST_MAP
        sizes = {"random_features": dim, "random_classes": self.classes}
        for name, size in sizes.items():
            self.register_buffer(name, torch.randn(size, self.random_width) if needed else None)

    def rows(self, student: ModelOutput) -> Tensor:
        """The layer f and the probabilities p beside each other, "batch dim+classes"."""
        x, z = student.at(self.student_layers[0]).flatten(1), student.logits.detach()
        wide = torch.promote_types(x.dtype, torch.float32)
        return torch.cat([x.to(wide), z.to(wide).softmax(dim=1)], dim=1)

    def align(self, source: Tensor, target: Tensor) -> Tensor:
        """The term.

        Args:
            source: "n dim+classes", as `rows` gives them.
            target: "m dim+classes".
        """
        odds = self.discriminate(self._map(source), self._map(target))
        if not self.entropy_weighted:
            return domain_cross_entropy(*odds)
        weights = [entropy_weight(x[:, -self.classes :].detach()) for x in (source, target)]
        return domain_cross_entropy(*odds, *weights)

    def _map(self, rows: Tensor) -> Tensor:
        f, p = rows[:, : -self.classes], rows[:, -self.classes :]
        r_f, r_p = self.random_features, self.random_classes
        return multilinear_map(f, p, None if r_f is None or r_p is None else (r_f, r_p))
