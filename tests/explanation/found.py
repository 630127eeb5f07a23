"""Facts made by hand, in which nothing stands out until a test changes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lightning_distill.contribution import Contribution, Contributions
from lightning_distill.explanation.answers import Answers
from lightning_distill.explanation.calibration import calibration
from lightning_distill.explanation.curves import Curve
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.worth import Worth

CLASSES = ("ant", "bee", "cat\n# x: {")


def facts(config: str = "", **changed: Any) -> RunFacts:
    """A run of which nothing is known but its config."""
    empty = RunFacts(
        run=Path("run"),
        split="test",
        task="Classification",
        modalities={"student": ("image", "text"), "teacher": ("image", "text")},
        parameters={},
        metrics={},
        curves={},
        answers=None,
        agreement=None,
        classes=(),
        calibration={},
        contributions={},
        similarity=None,
        worth=None,
        left_out=(),
        config=config,
        environment={},
    )
    return replace(empty, **changed)


def answers(target: Sequence[int], confidence: float = 0.9, **said: Sequence[int]) -> Answers:
    """Answers of equal confidence: who -> the class named for each sample."""
    rest = (1 - confidence) / (len(CLASSES) - 1)
    probabilities = {
        who: torch.full((len(target), len(CLASSES)), rest).scatter(
            1, torch.tensor(named)[:, None], confidence
        )
        for who, named in said.items()
    }
    ids = torch.arange(len(target))
    return Answers("test", ids, ids + 100, torch.tensor(target), probabilities, CLASSES)


def with_calibration(found: Answers, config: str = "") -> RunFacts:
    """Facts with these answers, and the calibration that goes with them."""
    measured = {n: calibration(p, found.target) for n, p in found.probabilities.items()}
    return facts(config, answers=found, calibration=measured)


def curve(name: str, values: Sequence[float], every: int = 10) -> dict[str, Curve]:
    """One curve, by its name."""
    return {name: Curve(name, tuple(range(0, every * len(values), every)), tuple(map(float, values)))}


def worth_of(low: float, high: float, pairs: int = 1) -> Worth:
    """An interval around a difference."""
    middle = (low + high) / 2
    return Worth(0.8 + middle, 0.8, middle, low, high, pairs, 200, "")


def contributions_of(**values: Sequence[float]) -> Contributions:
    """Shapley values of an accuracy: modality -> one a sample."""
    tensors = {m: torch.tensor(v, dtype=torch.float64) for m, v in values.items()}
    size = len(next(iter(tensors.values())))
    means = {m: float(v.mean()) for m, v in tensors.items()}
    shares = Contribution(0.0, sum(means.values()), means, dict.fromkeys(means, 0.01))
    return Contributions(
        tuple(values), size, {"accuracy": shares}, torch.arange(size) + 100, {"accuracy": tensors}
    )
