"""The data of `mfh.py`: which columns of Gaussian features teacher and student see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """What teacher and student see of the same samples, float "seeds samples columns", and their labels."""

    teacher: Tensor
    student: Tensor
    label: Tensor


@dataclass(frozen=True)
class Setting:
    """Which columns of the decisive features each side sees, the rest of its columns being noise.

    Attributes:
        name: As in the results.
        decisive: Width of the features that make up the label.
        teacher: Columns of the decisive features that the teacher sees.
        student: Columns of the decisive features that the student sees.
        widths: Columns of teacher and student in all.
        random_rule: Whether the label's weights are drawn, or all 1.
    """

    name: str
    decisive: int
    teacher: range
    student: range
    widths: tuple[int, int]
    random_rule: bool = True

    @property
    def gamma(self) -> float:
        """Shared decisive columns / decisive columns that either side sees."""
        both = set(self.teacher) & set(self.student)
        return len(both) / len(set(self.teacher) | set(self.student))

    @property
    def alpha(self) -> float:
        """Decisive columns of the teacher alone / decisive columns that either side sees."""
        return len(set(self.teacher) - set(self.student)) / len(set(self.teacher) | set(self.student))

    def rule(self, seeds: int, generator: torch.Generator) -> Tensor:
        """The weights that make labels of the decisive features, "seeds decisive"."""
        if self.random_rule:
            return torch.randn(seeds, self.decisive, generator=generator)
        return torch.ones(seeds, self.decisive)

    def draw(self, rule: Tensor, samples: int, generator: torch.Generator) -> Views:
        """Fresh samples for every seed."""
        seeds = len(rule)
        features = torch.randn(seeds, samples, self.decisive, generator=generator)
        label = (torch.einsum("snd,sd->sn", features, rule) > 0).long()
        sides = []
        for columns, width in zip((self.teacher, self.student), self.widths, strict=True):
            noise = torch.randn(seeds, samples, width - len(columns), generator=generator)
            sides.append(torch.cat([features[:, :, list(columns)], noise], dim=2))
        return Views(*sides, label)


def experiment_1() -> list[Setting]:
    """Growing gamma: the teacher's ten decisive columns come to be those of the student."""
    return [
        Setting(f"gamma {o / (20 - o):.2f}", 20, range(10 - o, 20 - o), range(10), (25, 50))
        for o in range(0, 11, 2)
    ]


def experiment_2() -> list[Setting]:
    """Growing alpha: the teacher sees ever more that the student does not."""
    return [
        Setting(f"alpha {v / (v + 10):.2f}", 50, range(v + 10), range(10), (50, 50)) for v in range(0, 41, 10)
    ]


def table_2() -> list[Setting]:
    """A gamma of k / (10 + k), a label that is the sign of a plain sum, a teacher that sees everything."""
    return [
        Setting(f"gamma {g:.2f}", 10 + k, range(10 + k), range(k), (50, 50), random_rule=False)
        for g, k in ((0.25, 3), (0.33, 5), (0.5, 10), (0.66, 20), (0.75, 30))
    ]
