"""Classes on which the teacher misleads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_distill.errors import printable
from lightning_distill.explanation.answers import BASELINE, STUDENT, TEACHER, Answers
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings.base import Finding
from lightning_distill.explanation.findings.chance import LEVEL, sign_test
from lightning_distill.explanation.findings.overlay import RunConfig, excluding, overlay
from lightning_distill.explanation.target_domain import only_on_target

_MOST_TOLD = 5


class _Misled(NamedTuple):
    number: int
    p: float
    told: str


def misleading_class(facts: RunFacts) -> Finding | None:
    """Classes on which one of these cannot be chance, each tested on the samples of the class.

    - The teacher is worse than the baseline, or where there is none than the student (paired).
    - The student is worse than the baseline (paired).
    - The teacher names one other class more often than the class itself.

    The level is shared out among all classes and tests, and in the last among the other classes.
    """
    answers = facts.answers
    if answers is None or TEACHER not in answers.probabilities:
        return None
    found = sorted(_misled(answers), key=lambda one: one.p)
    if not found:
        return None
    config, change = RunConfig(facts.config), ""
    indices = sorted(one.number for one in found)
    names = ", ".join(repr(_name(answers, i)) for i in indices)
    if only_on_target(config) and not facts.domains:
        pass  # measured on rows that the terms do not see: what to leave out there changes nothing
    elif config.taught and len(indices) < len(answers.classes):
        lines = config.with_terms(lambda term: excluding(term, classes=indices))
        told = "; ".join(f"{i} is {_name(answers, i)}" for i in indices)
        change = overlay(lines, "There the student learns from labels alone.", f"Classes: {told}")
    elif config.taught:
        change = config.without_teacher("It misleads on every class: labels alone.")
    more = "" if len(found) <= _MOST_TOLD else f" So it is with {len(found) - _MOST_TOLD} more."
    evidence = " ".join(one.told for one in found[:_MOST_TOLD]) + more
    word = "class" if len(indices) == 1 else "classes"
    return Finding("misleading-class", f"The teacher misleads on the {word} {names}.", evidence, change)


def _misled(answers: Answers) -> list[_Misled]:
    said = {name: p.argmax(dim=1) for name, p in answers.probabilities.items()}
    found = []
    classes = answers.target.unique().tolist()
    for index in classes:
        rows = answers.target == index
        tests = _tests(answers, {name: x[rows] for name, x in said.items()}, index)
        p, told = min(tests, default=(1.0, ""))
        if p <= LEVEL / len(classes) / len(tests):
            text = f"Of the {int(rows.sum())} samples of {_name(answers, index)!r}, {told} (p = {p:.2g})."
            found.append(_Misled(index, p, text))
    return found


def _tests(answers: Answers, said: dict[str, Tensor], index: int) -> list[tuple[float, str]]:
    """(p, what was seen); p is 1 where it is the other way round."""
    other = BASELINE if BASELINE in said else STUDENT
    pairs = [(TEACHER, other)] + ([(STUDENT, BASELINE)] if BASELINE in said else [])
    found = []
    for worse, better in pairs:
        lost = int(((said[better] == index) & (said[worse] != index)).sum())
        won = int(((said[worse] == index) & (said[better] != index)).sum())
        told = f"the {better} alone knows {lost} and the {worse} alone {won}"
        found.append((sign_test(won, lost) if lost > won else 1.0, told))
    counts = torch.bincount(said[TEACHER], minlength=len(answers.classes))
    right = int(counts[index])
    counts[index] = -1
    wrong = int(counts.max())
    p = min(1.0, sign_test(right, wrong) * (len(counts) - 1)) if wrong > right else 1.0
    named = _name(answers, int(counts.argmax()))
    return [*found, (p, f"the teacher calls {wrong} {named!r} and {right} what they are")]


def _name(answers: Answers, index: int) -> str:
    return printable(answers.classes[index], 60)
