"""Answers made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lightning_distill.explanation.answers import Answers

NAMES = ("ant", "bee", "cat")


def made_answers(target: Sequence[int], said: Mapping[str, Sequence[tuple[int, float]]]) -> Answers:
    """Answers to samples 100, 101, ... of rows 10, 11, ...

    Args:
        target: Class of each sample.
        said: student, teacher, baseline -> of each sample the class it names, and its confidence.
    """
    probabilities = {}
    for name, tops in said.items():
        rest = [[(1 - p) / 2] * 3 for _, p in tops]
        for row, (k, p) in zip(rest, tops, strict=True):
            row[k] = p
        probabilities[name] = torch.tensor(rest)
    count = len(target)
    return Answers(
        "test",
        torch.arange(count) + 10,
        torch.arange(count) + 100,
        torch.tensor(target),
        probabilities,
        NAMES,
    )
