"""DANN: features from which no discriminator can tell the domain."""

from __future__ import annotations

import math

from torch import Tensor

from lightning_distill.losses.adversarial_base import AdversarialLoss, domain_cross_entropy
from lightning_distill.losses.base import Shapes
from lightning_distill.schedules import Schedule


class DomainAdversarial(AdversarialLoss):
    """`domain_cross_entropy` of D(R(f)): D a discriminator, R `reverse_gradient`, f a layer of the student.

    D descends on the term, the student ascends on it, factor times as fast. The factor is that of the
    optimizer step: batches of one accumulation share it. In step 0 of the default it is 0, so the report of
    the first step shows no gradient on the student.

    A gradient is clipped after it was reversed and added to those of other terms. One range for all entries,
    as by a `ValueClip` of the whole model, therefore clips D and the student alike: a D whose gradients are
    cut to epsilon is too slow to judge by, and where the student's are cut, a larger factor changes nothing.
    Give them ranges of their own. The parameters of D are named `terms.losses.<name>.discriminator.*`, those
    of the student as in the student:

        clip_rule:
          class_path: PerPattern
          init_args:
            rules:
              "terms.losses.dann.*": {class_path: ValueClip, init_args: {epsilon: 0.1}}
              "encoders.*": {class_path: ValueClip, init_args: {epsilon: 0.01}}
            rest: {class_path: ValueClip, init_args: {epsilon: 0.05}}

    Args:
        layer: As for `AlignmentLoss`: the fused feature, or one modality's with "features.<modality>".
        hidden: Widths of the discriminator's hidden layers. The paper has 1024 and 1024, and 100 for MNIST.
        dropout: After each hidden layer, in [0, 1).
        factor: lambda >= 0, or how it changes; None is `SigmoidRamp()`, whose `steps` are best set to the
            optimizer steps of the training.

    Raises:
        ConfigError: If a setting is out of range.

    Source: Ganin et al., Domain-Adversarial Training of Neural Networks (1505.07818), sections 4.2 and
    5.2, with the mean of the two sides in the place of their sum.

    >>> import torch
    >>> term = DomainAdversarial(hidden=(4,), factor=0.5)
    >>> term.adapt(((2,),), ())
    >>> term.discriminator
    Sequential(
      (0): Linear(in_features=2, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=1, bias=True)
    )
    >>> term.align(torch.zeros(3, 2), torch.ones(5, 2)).shape
    torch.Size([])
    """

    def __init__(
        self,
        layer: str = "embedding",
        hidden: tuple[int, ...] = (1024, 1024),
        dropout: float = 0.0,
        factor: float | Schedule | None = None,
    ) -> None:
        super().__init__(layer, hidden, dropout, factor)

    def width(self, student: Shapes) -> int:
        """That of the layer, flattened."""
        return math.prod(student[0])

    def align(self, source: Tensor, target: Tensor) -> Tensor:
        """The term."""
        return domain_cross_entropy(*self.discriminate(source, target))
