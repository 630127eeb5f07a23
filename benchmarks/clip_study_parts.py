"""The three parts of `clip_study.py`: choose on validation rows, then train anew on the seeds that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from clip_study_data import MODALITIES
from clip_study_jobs import Counter, Job, Runner
from clip_study_rows import BALANCERS, FEATURES, NONE, RULES, Row

SCREEN_SEED: Final = 100
RATES: Final[Mapping[str, tuple[float, ...]]] = {
    "sgd": (0.01, 0.03, 0.1, 0.3, 1.0),
    "adamw": (3e-4, 1e-3, 3e-3, 1e-2),
}
LOWEST: Final[Mapping[str, float]] = {"sgd": 1e-3, "adamw": 1e-4}
"""Where the finer learning rates begin of what has no range to try."""
RANGES: Final = 4
FEATURE_RATES: Final = (1e-3, 3e-3, 1e-2)
DROPOUTS: Final = (0.0, 0.2)
FINALISTS: Final = 5
"""Rules that are trained on all seeds at every rate, beside the baselines."""
BASELINES: Final = ("none", "norm", "value")


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        seeds: That count; `SCREEN_SEED` is not among them.
        quick: One range and one rate of each, to see that all of it runs.
    """

    seeds: Sequence[int]
    quick: bool = False

    def rates(self, optimizer: str) -> tuple[float, ...]:
        """Of the sweep."""
        return RATES[optimizer][:1] if self.quick else RATES[optimizer]

    def trials(self, row: Row, optimizer: str, rates: Sequence[float]) -> list[tuple[float, float]]:
        """(Range, rate) pairs; the same number for all rows."""
        if self.quick:
            return [(row.values[0], rates[0])]
        if len(row.values) > 1:
            return [(value, rate) for value in row.values for rate in rates]
        fine = np.geomspace(LOWEST[optimizer], max(rates), RANGES * len(rates))
        return [(row.values[0], float(f"{rate:.3g}")) for rate in fine]


Score = tuple[float, float]


def score(found: Mapping[str, Any]) -> Score:
    """Mean validation accuracy, and of equal ones the lower loss; larger is better."""
    loss = found.get("loss", 0.0)
    return float(np.mean(list(found["val"].values()))), -loss if np.isfinite(loss) else -np.inf


def there(rows: Sequence[Row]) -> list[Row]:
    """Those the library has all names for."""
    return [row for row in rows if not row.missing]


def statistics(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard error (none for a single one), number, and the values."""
    x = np.array(values, dtype=np.float64)
    error = float(x.std(ddof=1) / len(x) ** 0.5) if len(x) > 1 else None
    return {"mean": float(x.mean()), "se": error, "n": len(x), "values": [round(v, 3) for v in x.tolist()]}


def against(values: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Statistics of the differences, seed by seed."""
    return statistics([a - b for a, b in zip(values, base, strict=True)])


class Study:
    """Runs the parts.

    Args:
        runner: Trains.
        plan: How much.
    """

    def __init__(self, runner: Runner | Counter, plan: Plan) -> None:
        self.runner, self.plan = runner, plan

    def final(self, job: Job, what: str, case: str = "clean") -> list[float]:
        """Test accuracy of a training on each seed."""
        jobs = [replace(job, seed=seed, tested=True) for seed in self.plan.seeds]
        return [found["test"][case] for found in self.runner.all(jobs, what)]

    def best(self, jobs: Sequence[Job], what: str) -> Job:
        """The one with the best validation score on the screen seed."""
        found = self.runner.all(jobs, what)
        return max(zip(map(score, found), jobs, strict=True), key=lambda pair: pair[0])[1]

    # -- (1) rules ---------------------------------------------------------------------------------------

    def screen(self, row: Row, optimizer: str, condition: str, part: str = "rules") -> list[Job]:
        """All its trials."""
        rates = self.plan.rates(optimizer)
        return [
            Job(part, row.name, optimizer, condition, SCREEN_SEED, False, value, rate)
            for value, rate in self.plan.trials(row, optimizer, rates)
        ]

    def rules(self) -> list[dict[str, Any]]:
        """Each rule with its best range and rate."""
        cells = [(o, c, row) for o in RATES for c in ("clean", "broken") for row in there(RULES)]
        self.runner.all([j for o, c, row in cells for j in self.screen(row, o, c)], "rules, screen")
        chosen = [(o, c, row, self.best(self.screen(row, o, c), "")) for o, c, row in cells]
        finals = [replace(j, seed=s, tested=True) for *_, j in chosen for s in self.plan.seeds]
        self.runner.all(finals, "rules, seeds")
        base = {(o, c): self.final(j, "") for o, c, row, j in chosen if row is NONE}
        rows = []
        for optimizer, condition, row, job in chosen:
            values = self.final(job, "")
            rows.append(
                _described(job, row)
                | {"test": statistics(values), "gain": against(values, base[optimizer, condition])}
            )
        return rows

    def sweep(self) -> list[dict[str, Any]]:
        """SGD at every rate: finalists and baselines, with one range for all rates and with one a rate."""
        rows: list[tuple[Row, str, str, list[Job]]] = []
        rates = self.plan.rates("sgd")
        for condition in ("clean", "broken"):
            ranked = []
            for row in there(RULES):
                grid = {
                    value: [
                        Job("rules", row.name, "sgd", condition, SCREEN_SEED, False, value, rate)
                        for rate in rates
                    ]
                    for value in (row.values[:1] if self.plan.quick else row.values)
                }
                self.runner.all([job for jobs in grid.values() for job in jobs], f"sweep, {condition}")
                one = max(grid.values(), key=lambda jobs: _least(self.runner.all(jobs, "")))
                each = [self.best([jobs[i] for jobs in grid.values()], "") for i in range(len(rates))]
                ranked.append((_least(self.runner.all(each, "")), row, one, each))
            ranked.sort(key=lambda found: found[0], reverse=True)
            kept = [f for i, f in enumerate(ranked) if i < FINALISTS or f[1].name in BASELINES]
            for _, row, one, each in kept:
                rows.append((row, condition, "one for all rates", one))
                if row.what:
                    rows.append((row, condition, "one a rate", each))
        jobs = [replace(j, seed=s, tested=True) for *_, js in rows for j in js for s in self.plan.seeds]
        self.runner.all(jobs, "sweep, seeds")
        return [
            {
                "row": row.name,
                "condition": condition,
                "range": kind,
                "what": row.what,
                "cells": [
                    {"rate": j.rate, "value": j.value, "test": statistics(self.final(j, ""))} for j in jobs
                ],
            }
            for row, condition, kind, jobs in rows
        ]

    # -- (2) feature clips -------------------------------------------------------------------------------

    def features(self) -> list[dict[str, Any]]:
        """Each feature clip, with and without modality dropout, under faults at test time."""
        cells = [(dropout, row) for dropout in DROPOUTS for row in there(FEATURES)]

        def trials(dropout: float, row: Row) -> list[Job]:
            pairs = self.plan.trials(row, "adamw", FEATURE_RATES)
            return [
                Job("features", row.name, "adamw", "clean", SCREEN_SEED, False, value, rate, dropout)
                for value, rate in pairs
            ]

        self.runner.all([job for cell in cells for job in trials(*cell)], "feature clips, screen")
        chosen = [(row, self.best(trials(dropout, row), "")) for dropout, row in cells]
        seeded = [[replace(j, seed=s, tested=True) for s in self.plan.seeds] for _, j in chosen]
        self.runner.all([job for group in seeded for job in group], "feature clips, seeds")
        found = [self._cases(group) for group in seeded]
        base = next(f for f, (row, job) in zip(found, chosen, strict=True) if row is NONE and not job.dropout)
        return [
            _described(job, row)
            | {"dropout": job.dropout, "test": {case: statistics(v) for case, v in cases.items()}}
            | {"gain": {case: against(v, base[case]) for case, v in cases.items()}}
            for (row, job), cases in zip(chosen, found, strict=True)
        ]

    def _cases(self, jobs: Sequence[Job]) -> dict[str, list[float]]:
        tests = [found["test"] for found in self.runner.all(jobs, "")]
        return {"mean": [float(np.mean(list(t.values()))) for t in tests]} | {
            case: [t[case] for t in tests] for case in tests[0]
        }

    # -- (3) joint against late --------------------------------------------------------------------------

    def joint(self) -> list[dict[str, Any]]:
        """Late fusion of unimodal models, joint training without and with a balancer."""
        rows = []
        for optimizer in RATES:
            late = self._late(optimizer)
            base = self.final(late, "late fusion, seeds")
            rows.append(
                {"row": "late fusion", "optimizer": optimizer, "rates": late.rates}
                | {"test": statistics(base), "over_late": against(base, base)}
            )
            plain = self.final(self.best(self.screen(NONE, optimizer, "clean"), "joint, screen"), "joint")
            every = [*there(BALANCERS)]
            screens = {row.name: self.screen(row, optimizer, "clean", "joint") for row in every}
            self.runner.all([j for jobs in screens.values() for j in jobs], f"balancers, {optimizer}")
            chosen = [(NONE, self.best(self.screen(NONE, optimizer, "clean"), ""))]
            chosen += [(row, self.best(screens[row.name], "")) for row in every]
            jobs = [replace(j, seed=s, tested=True) for _, j in chosen for s in self.plan.seeds]
            self.runner.all(jobs, f"balancers, {optimizer}, seeds")
            for row, job in chosen:
                values = self.final(job, "")
                rows.append(
                    _described(job, row)
                    | {"test": statistics(values), "over_late": against(values, base)}
                    | {"gain": against(values, plain)}
                )
        return rows

    def _late(self, optimizer: str) -> Job:
        jobs = {
            m: [replace(j, modalities=(m,)) for j in self.screen(NONE, optimizer, "clean")]
            for m in MODALITIES
        }
        self.runner.all([j for group in jobs.values() for j in group], f"one modality, {optimizer}")
        rates = tuple(self.best(jobs[m], "").rate for m in MODALITIES)
        return Job("late", "late fusion", optimizer, "clean", SCREEN_SEED, False, rates=rates)


def _least(found: Sequence[Mapping[str, Any]]) -> Score:
    """By its worst rate."""
    return min(score(f) for f in found)


def _described(job: Job, row: Row) -> dict[str, Any]:
    keys = ("row", "optimizer", "condition", "value", "rate")
    return {key: getattr(job, key) for key in keys} | {"what": row.what}
