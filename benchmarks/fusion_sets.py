"""Three sets of two modalities whose best possible answer is known: what fusion has to do on each differs.

Both inputs are vectors of standard normal numbers, a part of them signal z and the rest noise. What answers
best is known for every sample, so that its accuracy on the very samples a model is tested on is counted
rather than assumed.

- `xor`: only both together tell anything. y = 1[(w_1 . z_1) (w_2 . z_2) > 0].
- `redundancy`: each of the two tells everything that can be told.
- `uniqueness`: the first tells everything, the second nothing.

For `xor` no label will do that is a sum of what the modalities say, such as the mean of all signals, though
sets that are called "synergy" use it: a linear model reads such a label as well as any interaction does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

MODALITIES = ("first", "second")
SIGNAL, NOISE = 4, 4
WIDTH = SIGNAL + NOISE
FLIPPED = 0.1
"""Share of wrong labels, which nobody can tell from right ones: the best accuracy is 1 minus this."""


@dataclass(frozen=True)
class Samples:
    """Samples of a set.

    Attributes:
        inputs: modality -> float "sample WIDTH".
        target: int64 "sample", 0 or 1.
        bayes: int64 "sample", what answers best given both inputs.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    bayes: Tensor

    @property
    def oracle(self) -> float:
        """Accuracy of the best answer on these samples."""
        return (self.bayes == self.target).double().mean().item()

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, rows: slice | Tensor) -> Samples:
        return Samples({m: x[rows] for m, x in self.inputs.items()}, self.target[rows], self.bayes[rows])


def xor(size: int, draw: Generator) -> Samples:
    """Y = 1[a b > 0] with a = w_1 . z_1 and b = w_2 . z_2; modality i sees z_i.

    One modality alone is right in half of the cases: given z_1, and so a, the sign of b is a fair coin.

    No sum of what each modality says, f(x_1) + g(x_2) > 0, is right in more than three quarters. Reflect z_1
    so that a turns into -a and the rest stays, and z_2 likewise: the four inputs are equally likely, and
    their labels are 1, 0, 0, 1. Were all four answered well, then f(x_1) + g(x_2) and f(x_1') + g(x_2')
    would be positive and f(x_1) + g(x_2') and f(x_1') + g(x_2) not, but both pairs have the same sum. So one
    of every four is wrong.
    """
    (a, first), (b, second) = _signal_and_input(size, draw), _signal_and_input(size, draw)
    target = (a * b > 0).long()
    return Samples(dict(zip(MODALITIES, (first, second), strict=True)), target, target)


def redundancy(size: int, draw: Generator) -> Samples:
    """Y = 1[w . z > 0], flipped with probability FLIPPED; both see z, each turned by a rotation of its own.

    Since each sees all of z, either alone can be as good as both.
    """
    z, w = torch.randn(size, SIGNAL, generator=draw), torch.randn(SIGNAL, generator=draw)
    inputs = {m: torch.cat([z @ _rotation(draw), _noise(size, draw)], dim=1) for m in MODALITIES}
    return _flipped(inputs, (z @ w > 0).long(), draw)


def uniqueness(size: int, draw: Generator) -> Samples:
    """Y = 1[w . z > 0], flipped with probability FLIPPED; the first sees z, the second noise only."""
    a, first = _signal_and_input(size, draw)
    second = torch.randn(size, WIDTH, generator=draw)
    return _flipped(dict(zip(MODALITIES, (first, second), strict=True)), (a > 0).long(), draw)


SETS = (xor, redundancy, uniqueness)


def _signal_and_input(size: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """W . z and [z; noise]."""
    w, z = torch.randn(SIGNAL, generator=draw), torch.randn(size, SIGNAL, generator=draw)
    return z @ w, torch.cat([z, _noise(size, draw)], dim=1)


def _noise(size: int, draw: Generator) -> Tensor:
    return torch.randn(size, NOISE, generator=draw)


def _rotation(draw: Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(SIGNAL, SIGNAL, generator=draw)).Q


def _flipped(inputs: dict[str, Tensor], bayes: Tensor, draw: Generator) -> Samples:
    wrong = torch.rand(len(bayes), generator=draw) < FLIPPED
    return Samples(inputs, bayes ^ wrong.long(), bayes)
