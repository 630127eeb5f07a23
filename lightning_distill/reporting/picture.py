"""The whole story in one picture."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lightning_distill.reporting.figures import new_figure, save_figure
from lightning_distill.reporting.panels import BLUE, INK, VERMILION, Pair, pair_panel, student_panel
from lightning_distill.reporting.summary import (
    TEACHER,
    ClipCell,
    ClipLine,
    Summary,
    by_student,
    clip_lines,
    corruption,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

WIDTH: Final = 12.0

BAR: Final = 0.42
FRAME: Final = 1.35
"""Inches a bar takes, and what a row of panels takes besides its bars."""


def draw_picture(summary: Summary) -> Figure:
    """Students above, clips below.

    Args:
        summary: The facts.

    Returns:
        A figure outside pyplot: nothing of it stays behind.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    groups = by_student(summary["rows"])
    teacher = next(iter(groups.pop(TEACHER, [])), None)
    trained, tested = clip_pairs(summary)
    every = [max(len(rows) for rows in groups.values()), max(len(trained), len(tested) + 2)]
    inches = [BAR * bars + FRAME for bars in every]
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1)
    figure = new_figure(WIDTH, sum(inches) + 0.6, layout)
    figure.suptitle(textwrap.fill(summary["title"], 90), fontsize=13, fontweight="bold")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=inches)[:, 0]
    panels = upper.subplots(1, len(groups), squeeze=False)[0]
    for axes, (student, rows) in zip(panels, groups.items(), strict=True):
        student_panel(axes, student, rows, teacher, summary["gap_closed"].get(student))
    left, right = lower.subfigures(1, 2, squeeze=False)[0]
    pair_panel(left.subplots(), "training, clip rule on the gradients", summary["clip"]["rule"], trained)
    used = BAR * len(tested) + FRAME
    above, below = right.subfigures(2, 1, squeeze=False, height_ratios=[used, inches[1] - used])[:, 0]
    pair_panel(above.subplots(), "test, clip on the fused feature", summary["feature_clip"]["clip"], tested)
    _legend(below)
    return figure


def save_picture(summary: Summary, path: Path | str) -> Path:
    """Draw and write a PNG, whole or not at all.

    Args:
        summary: The facts.
        path: Ends in `.png`; its folder is made where needed.

    Returns:
        The path.
    """
    return save_figure(draw_picture(summary), path)


def clip_pairs(summary: Summary) -> tuple[list[Pair], list[Pair]]:
    """Lines of the two lower panels: trainings, and tests."""
    trained = [
        _pair(line, data, *line["cells"][start : start + 2])
        for line in clip_lines(summary["clip"])
        for start, data in ((0, "clean data"), (2, "1 % broken"))
        if any(line["cells"][start : start + 2])
    ]
    study = summary["feature_clip"]
    clean, corrupted = study["clean"], study["corrupted"]
    tested = [
        Pair("clean inputs", clean["without"], clean["with"]),
        Pair(corruption(study).replace(" at ", "\nat "), corrupted["without"], corrupted["with"]),
    ]
    return trained, tested


def _pair(line: ClipLine, data: str, without: ClipCell | None, with_rule: ClipCell | None) -> Pair:
    return Pair(
        f"{line['optimizer']} {line['learning_rate']:g}, {data}",
        without["accuracy"] if without else None,
        with_rule["accuracy"] if with_rule else None,
        without.get("stopped_at_step") if without else None,
        with_rule.get("stopped_at_step") if with_rule else None,
    )


def _legend(figure: SubFigure) -> None:
    from matplotlib.lines import Line2D

    def sign(label: str, marker: str, colour: str, edge: str = INK) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, color=colour, markeredgecolor=edge, label=label)

    figure.legend(
        handles=[
            sign("one seed (whisker: standard error)", "o", "white"),
            sign("without clip", "s", VERMILION),
            sign("with clip", "o", BLUE),
            sign("training stopped: loss not finite", "x", VERMILION, VERMILION),
        ],
        loc="center",
        frameon=False,
        fontsize=9,
    )
