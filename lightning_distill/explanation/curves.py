"""What a run has logged."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning_distill.errors import CheckpointError


@dataclass(frozen=True)
class Curve:
    """One metric over the training.

    Attributes:
        name: As logged, for example `val/loss`.
        steps: Optimizer steps.
        values: As many; only finite ones.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def read_curves(history: Path) -> dict[str, Curve]:
    """Every metric of a run's `metrics.csv`, by name, `epoch` among them.

    Steps of a curve ascend. Of several values for one step the last counts; where a metric goes back in
    steps, as after a resume, what was said before of these steps and of later ones is dropped.

    Args:
        history: The file.

    Raises:
        CheckpointError: If it is missing or no such file.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    try:
        with history.open(newline="", encoding="utf-8") as lines:
            for step, name, value in _entries(csv.DictReader(lines), history):
                points = found.setdefault(name, [])
                while points and points[-1][0] >= step:
                    points.pop()
                points.append((step, value))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _no_history(history, error) from error
    finite = {name: [p for p in points if math.isfinite(p[1])] for name, points in found.items()}
    return {n: Curve(n, *map(tuple, zip(*points, strict=True))) for n, points in finite.items() if points}


def _entries(rows: csv.DictReader[str], history: Path) -> Iterator[tuple[int, str, float]]:
    """(step, name, value) of all cells that hold something; a row without a step is of the one before."""
    if "step" not in (rows.fieldnames or ()):
        raise _no_history(history, f"the columns {', '.join(rows.fieldnames or ()) or 'none'}")
    step = 0
    for row in rows:
        at = f"{history}, line {rows.line_num}"
        if None in row:
            raise _no_history(at, "more cells than columns")
        if row["step"]:
            step = int(_number(row, "step", at))
        for name in row:
            if name != "step" and row[name]:
                yield step, name, _number(row, name, at)


def _number(row: Mapping[str, str], name: str, at: str) -> float:
    try:
        value = float(row[name])
        if name == "step":
            int(value)  # neither NaN nor infinite
    except (ValueError, OverflowError) as error:
        raise _no_history(f"{at}, {name}", repr(row[name])) from error
    return value


def _no_history(where: object, found: object) -> CheckpointError:
    return CheckpointError(
        where=where,
        found=found,
        expected="the table of a run's metrics, as `fit` writes it: a column `step`, and one a metric",
        fix="name the folder of a run that `fit` has made",
    )
