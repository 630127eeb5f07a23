"""Values over steps, as lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from markupsafe import Markup

from lightning_distill.reporting.charts.drawing import (
    COLOURS,
    WIDTH,
    dash,
    figure,
    joined,
    legend,
    number,
    rule,
    text,
    ticks,
    told,
    widened,
)

POINTS: Final = 300
"""Of a line: more than a chart of this width can show."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 46.0, WIDTH - 12.0, 10.0, 176.0, 214.0
_RATIO: Final = 100.0
"""Largest by smallest value from which on the axis is logarithmic."""

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        name: In the legend.
        x: Rising.
        y: As many, finite.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(title: str, lines: Sequence[Line], x_name: str = "step", low: float | None = None) -> Markup:
    """Lines over a common axis, with their last values in the legend.

    The axis of values is logarithmic where all are positive, the largest is 100 times the smallest, and `low`
    is None.

    Args:
        title: Of the chart.
        lines: Those without points are left out.
        x_name: What the horizontal axis counts.
        low: The axis of values reaches down to it.
    """
    lines = [line for line in lines if len(line.y)]
    if not lines:
        return Markup("")
    values = [y for line in lines for y in line.y]
    x_ends = widened(min(line.x[0] for line in lines), max(line.x[-1] for line in lines))
    x = _straight(*x_ends, _LEFT, _RIGHT)
    logarithmic = low is None and min(values) > 0 and max(values) > _RATIO * min(values)
    floor = min(values) if low is None else min(low, *values)
    grid, y = (_powers if logarithmic else _values)(*widened(floor, max(values)))
    marks = [text(x(t), _BOTTOM + 17, told(t), "middle") for t in ticks(*x_ends, most=4)]
    middle = (_LEFT + _RIGHT) / 2
    axes = [*grid, *marks, text(middle, _HEIGHT - 5, x_name, "middle")]
    drawn = [_drawn(i, line, x, y) for i, line in enumerate(lines)]
    names = [f"{line.name} {told(line.y[-1])}" for line in lines]
    return figure(
        title, _words(lines, x_name, logarithmic), _HEIGHT, [*axes, *drawn], legend(names, dashed=True)
    )


def thin(x: Sequence[float], y: Sequence[float], most: int = POINTS) -> list[tuple[float, float]]:
    """Few points that look like many: of each stretch the lowest and the highest, and both ends.

    Args:
        x: Rising.
        y: As many.
        most: Points that may be left, 4 or more.

    >>> thin(range(100), [0.0] * 50 + [9.0] + [0.0] * 49, 6)
    [(0, 0.0), (1, 0.0), (50, 9.0), (51, 0.0), (99, 0.0)]
    """
    if len(y) <= most:
        return list(zip(x, y, strict=True))
    bins = most // 2 - 1
    edges = [1 + (len(y) - 2) * i // bins for i in range(bins + 1)]
    kept = {0, len(y) - 1}
    for begin, end in pairwise(edges):
        if end > begin:
            stretch = range(begin, end)
            kept |= {min(stretch, key=y.__getitem__), max(stretch, key=y.__getitem__)}
    return [(x[i], y[i]) for i in sorted(kept)]


def _drawn(i: int, line: Line, x: Scale, y: Scale) -> Markup:
    points = [(x(a), y(b)) for a, b in thin(line.x, line.y)]
    if len(points) == 1:
        dot = Markup('<circle cx="{}" cy="{}" r="4" class="area c{}"/>')
        return dot.format(number(points[0][0]), number(points[0][1]), i % COLOURS)
    path = " ".join(f"{number(a)},{number(b)}" for a, b in points)
    drawn = Markup('<polyline points="{}" class="line c{}" stroke-dasharray="{}"/>')
    return drawn.format(path, i % COLOURS, dash(i))


def _straight(low: float, high: float, begin: float, end: float) -> Scale:
    return lambda value: begin + (value - low) / (high - low) * (end - begin)


def _values(low: float, high: float) -> tuple[list[Markup], Scale]:
    """From the round number below to the one above, so that every line runs between two marks."""
    marks = ticks(low, high)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    ends = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    y = _straight(*ends, _BOTTOM, _TOP)
    return [_mark(y(t), told(t)) for t in ticks(*ends)], y


def _powers(low: float, high: float) -> tuple[list[Markup], Scale]:
    """Powers of ten, as many as have room."""
    ends = math.floor(math.log10(low)), math.ceil(math.log10(high))
    y = _straight(ends[0], ends[1], _BOTTOM, _TOP)
    step = max(1, -(-(ends[1] - ends[0]) // 5))
    marks = [_mark(y(t), told(10.0**t)) for t in range(ends[0], ends[1] + 1, step)]
    return marks, lambda value: y(math.log10(value))


def _mark(y: float, label: str) -> Markup:
    return joined([rule((_LEFT, _RIGHT), (y, y)), text(_LEFT - 6, y + 4, label, "end")])


def _words(lines: Sequence[Line], x_name: str, logarithmic: bool) -> str:
    told_lines = [
        f"{line.name}: from {told(line.y[0])} to {told(line.y[-1])}, lowest {told(min(line.y))}, "
        f"highest {told(max(line.y))}"
        for line in lines
    ]
    axis = " on a logarithmic axis" if logarithmic else ""
    ends = f"{told(min(line.x[0] for line in lines))} to {told(max(line.x[-1] for line in lines))}"
    return f"Lines{axis} over {x_name} {ends}. {'; '.join(told_lines)}."
