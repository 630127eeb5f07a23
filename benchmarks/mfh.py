"""The synthetic tables of the Modality Focusing Hypothesis (Xue et al., arXiv 2206.06487), over many seeds.

Teacher and student are linear, with two logits, and see different columns of Gaussian data. What both see and
what decides the label is the modality-general part; its share is gamma. 200 training and 1000 test samples,
1000 steps of full-batch SGD with lr 0.1, loss = CE + KLDiv averaged over all N * C entries, T = 1.

    python benchmarks/mfh.py --out benchmarks/results/mfh.json

writes that file. Seeds are paired: the student with and without a teacher has the same data and the same
start. All seeds of a setting are trained as one batch of matrices.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from mfh_settings import Setting, Views, experiment_1, experiment_2, table_2

from lightning_distill.assessment import signal

TRAIN, TEST = 200, 1000
STEPS, RATE = 1000, 0.1
PROBE = 1000
"""Samples of which the verdict is made."""
PAPER = {
    "gamma": [0.25, 0.33, 0.5, 0.66, 0.75],
    "regular teacher": [89.70, 89.41, 89.62, 89.82, 89.70],
    "general teacher": [64.84, 68.42, 73.41, 77.98, 79.41],
    "no KD": [59.29, 61.98, 67.64, 73.48, 76.46],
    "regular KD": [59.46, 62.16, 67.86, 73.60, 76.53],
    "general KD": [61.01, 64.50, 70.25, 75.43, 77.70],
}
"""Table 2 of the paper, percent."""


def start(seeds: int, width: int, generator: torch.Generator) -> Tensor:
    """A fresh `nn.Linear(width, 2)`, as torch draws it, as the weights of z_1 - z_0: "seeds width+1 1"."""
    both = (torch.rand(seeds, width + 1, 2, generator=generator) * 2 - 1) * width**-0.5
    return both[:, :, 1:] - both[:, :, :1]


def gap(weights: Tensor, x: Tensor) -> Tensor:
    """z_1 - z_0, "seeds samples"."""
    return torch.baddbmm(weights[:, -1:], x, weights[:, :-1])[:, :, 0]


def train(weights: Tensor, x: Tensor, label: Tensor, teacher: Tensor | None = None) -> Tensor:
    """Full-batch SGD on the mean cross-entropy, plus the mean KL to a teacher's gap where there is one.

    The gradients of both losses by z_1 and z_0 are opposite, so that the two rows of the linear layer move
    apart by twice the step, and their difference is all there is to train. Its gradient is written out:
    (p - y) / N, and (p - p_t) / (N C) for the KL.
    """
    seeds, samples, _ = x.shape
    ones = torch.cat([x, x.new_ones(seeds, samples, 1)], dim=2)
    back = ones.transpose(1, 2).contiguous()
    target, weight = label[:, :, None].to(x.dtype), 1.0
    if teacher is not None:
        target, weight = target + teacher.sigmoid()[:, :, None] / 2, 1.5
    for _ in range(STEPS):
        rest = torch.bmm(ones, weights).sigmoid_().mul_(weight).sub_(target)
        weights = torch.baddbmm(weights, back, rest, alpha=-2 * RATE / samples)
    return weights


def accuracy(weights: Tensor, x: Tensor, label: Tensor) -> Tensor:
    """Percent, of each seed."""
    return 100 * ((gap(weights, x) > 0) == (label == 1)).double().mean(dim=1)


# -- outcomes -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """A teacher of a setting, one value a seed: accuracies in percent, and what `signal` expects."""

    setting: str
    teacher_kind: str
    alpha: float
    gamma: float
    teacher: Tensor
    alone: Tensor
    distilled: Tensor
    help: Tensor

    @property
    def gain(self) -> Tensor:
        """Points over the student without a teacher, paired by seed."""
        return self.distilled - self.alone


class Trial:
    """A setting's samples, one student without a teacher, and as many teachers as are asked for."""

    def __init__(self, setting: Setting, seeds: int, seed: int) -> None:
        self.setting, self.generator = setting, torch.Generator().manual_seed(seed)
        self.rule = setting.rule(seeds, self.generator)
        self.seen, self.test, self.probe = (self.draw(n) for n in (TRAIN, TEST, PROBE))
        self.start = start(seeds, setting.widths[1], self.generator)

    def draw(self, samples: int) -> Views:
        """Fresh samples of the setting."""
        return self.setting.draw(self.rule, samples, self.generator)

    def teach(self, columns: Tensor, samples: Views) -> Tensor:
        """A teacher of these columns, "seeds k"; its weights."""
        x = take(samples.teacher, columns)
        return train(start(len(x), x.shape[2], self.generator), x, samples.label)

    def outcome(self, kind: str, teacher: Tensor, columns: Tensor, samples: Views, alone: Tensor) -> Outcome:
        """Distil from a teacher on these samples, and ask beforehand whether it will help."""
        answers = gap(teacher, take(samples.teacher, columns))
        distilled = train(self.start, samples.student, samples.label, answers)
        foreseen = expected(self.probe, gap(teacher, take(self.probe.teacher, columns)))
        test = self.test
        return Outcome(
            self.setting.name,
            kind,
            self.setting.alpha,
            self.setting.gamma,
            accuracy(teacher, take(test.teacher, columns), test.label),
            accuracy(alone, test.student, test.label),
            accuracy(distilled, test.student, test.label),
            foreseen,
        )


def take(x: Tensor, columns: Tensor) -> Tensor:
    """Columns "seeds k" of "seeds samples columns"."""
    return x.gather(2, columns[:, None].expand(-1, x.shape[1], -1))


def expected(probe: Views, answers: Tensor) -> Tensor:
    """What the verdict says of each seed's teacher, from samples that nobody was trained on."""
    values = []
    for x, z, label in zip(probe.student, answers, probe.label, strict=True):
        values.append(signal(x, torch.stack([-z / 2, z / 2], dim=1), label).expected_help)
    return torch.tensor(values, dtype=torch.float64)


def whole_teacher(setting: Setting, seeds: int, seed: int) -> list[Outcome]:
    """Experiments 1 and 2: teacher and student have the same training samples."""
    trial = Trial(setting, seeds, seed)
    columns = torch.arange(setting.widths[0]).expand(seeds, -1)
    teacher = trial.teach(columns, trial.seen)
    alone = train(trial.start, trial.seen.student, trial.seen.label)
    return [trial.outcome("regular", teacher, columns, trial.seen, alone)]


def three_teachers(setting: Setting, seeds: int, seed: int) -> list[Outcome]:
    """Table 2: training samples are drawn again once the regular teacher is trained."""
    trial, k = Trial(setting, seeds, seed), len(setting.student)
    every = torch.arange(setting.widths[0]).expand(seeds, -1)
    regular = trial.teach(every, trial.seen)
    again = trial.draw(TRAIN)
    alone = train(trial.start, again.student, again.label)
    chance = torch.rand(seeds, setting.widths[0], generator=trial.generator).argsort(dim=1)[:, :k]
    outcomes = [trial.outcome("regular", regular, every, again, alone)]
    for kind, columns in (("general", every[:, :k]), ("random", chance)):
        outcomes.append(trial.outcome(kind, trial.teach(columns, again), columns, again, alone))
    return outcomes


# -- report ---------------------------------------------------------------------------------------------


def mean_se(values: Tensor) -> dict[str, float]:
    return {"mean": round(float(values.mean()), 4), "se": round(float(values.std() / len(values) ** 0.5), 4)}


def row(outcome: Outcome) -> dict[str, Any]:
    names = ("teacher", "alone", "distilled", "gain", "help")
    about: dict[str, Any] = {"setting": outcome.setting, "teacher_kind": outcome.teacher_kind}
    about |= {"alpha": round(outcome.alpha, 4), "gamma": round(outcome.gamma, 4)}
    return about | {name: mean_se(getattr(outcome, name)) for name in names}


def slope(outcomes: list[Outcome]) -> dict[str, float]:
    """Of the gain in points over gamma: least squares in each seed, mean and standard error over seeds."""
    gamma = torch.tensor([o.gamma for o in outcomes], dtype=torch.float64)
    gamma = gamma - gamma.mean()
    gains = torch.stack([o.gain for o in outcomes])
    rank = stats.spearmanr(gamma, gains.mean(dim=1)).statistic
    return {**mean_se(gamma @ gains / gamma.square().sum()), "spearman": round(float(rank), 4)}


def agreement(outcomes: list[Outcome]) -> float:
    """Spearman's rank correlation of expected help and gain, means over seeds of each setting."""
    means = [(float(o.help.mean()), float(o.gain.mean())) for o in outcomes]
    return round(float(stats.spearmanr(*zip(*means, strict=True)).statistic), 4)


def measure(seeds: int, seed: int) -> dict[str, list[Outcome]]:
    """Every outcome of the three experiments, all with the same seeds."""
    return {
        "experiment_1": [o for s in experiment_1() for o in whole_teacher(s, seeds, seed)],
        "experiment_2": [o for s in experiment_2() for o in whole_teacher(s, seeds, seed)],
        "table_2": [o for s in table_2() for o in three_teachers(s, seeds, seed)],
    }


def report(found: dict[str, list[Outcome]]) -> dict[str, Any]:
    """All figures as plain numbers."""
    second = found["table_2"]
    kinds = {kind: [o for o in second if o.teacher_kind == kind] for kind in ("regular", "general", "random")}
    pairs = {
        f"general - {kind}": {
            a.setting: mean_se(a.distilled - b.distilled)
            for a, b in zip(kinds["general"], kinds[kind], strict=True)
        }
        for kind in ("regular", "random")
    }
    groups = {**found, **{f"table_2 {kind}": some for kind, some in kinds.items()}}
    groups["all"] = [o for outcomes in found.values() for o in outcomes]
    return {
        **{name: [row(o) for o in outcomes] for name, outcomes in found.items()},
        "paper_table_2": PAPER,
        "gain_over_gamma": {name: slope(found[name]) for name in ("experiment_1", "experiment_2")},
        "paired_differences": pairs,
        "verdict_spearman": {name: agreement(outcomes) for name, outcomes in groups.items()},
    }


def show(result: dict[str, Any], console: Console) -> None:
    for name in ("experiment_1", "experiment_2", "table_2"):
        table = Table("setting", "teacher", "acc. %", "no KD", "KD", "gain ± SE", "verdict", title=name)
        for line in result[name]:
            cells = [f"{line[key]['mean']:.2f}" for key in ("teacher", "alone", "distilled")]
            gain = f"{line['gain']['mean']:+.2f} ± {line['gain']['se']:.2f}"
            table.add_row(line["setting"], line["teacher_kind"], *cells, gain, f"{line['help']['mean']:+.3f}")
        console.print(table)
    for name in ("gain_over_gamma", "paired_differences", "verdict_spearman"):
        console.print(name, result[name])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mfh.json"))
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of all draws")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    result = {"seeds": options.seeds, "seed": options.seed, **report(measure(options.seeds, options.seed))}
    result["seconds"] = round(time.monotonic() - started, 1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    show(result, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
