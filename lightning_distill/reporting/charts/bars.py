"""Values as bars, and parts of a whole as one bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from lightning_distill.reporting.charts.drawing import (
    COLOURS,
    WIDTH,
    box,
    figure,
    joined,
    legend,
    number,
    rule,
    text,
    told,
)

_LEFT, _RIGHT, _BAR, _HEAD = 4.0, WIDTH - 116.0, 17.0, 22.0


class Value(NamedTuple):
    """What a bar shows.

    Attributes:
        value: Its length.
        error: Half the length of the line over it; None or NaN draws none.
    """

    value: float
    error: float | None = None

    def __str__(self) -> str:
        spread = self.error is not None and math.isfinite(self.error)
        return told(self.value) + (f" ± {self.error:.2g}" if spread and self.error is not None else "")

    @property
    def reach(self) -> tuple[float, float]:
        """From where to where it is drawn."""
        half = self.error if self.error is not None and math.isfinite(self.error) else 0.0
        return min(0.0, self.value - half), max(0.0, self.value + half)


def bar_chart(title: str, series: Mapping[str, int], groups: Mapping[str, Sequence[Value | None]]) -> Markup:
    """Groups of horizontal bars from a common zero, each with its number.

    Args:
        title: Of the chart.
        series: Name of each bar of a group -> number of its colour.
        groups: Name -> a value a series; None leaves the bar out, and so does one that is not finite.
    """
    clean = {name: [_finite(v) for v in values] for name, values in groups.items()}
    reaches = [v.reach for values in clean.values() for v in values if v is not None]
    if not reaches:
        return Markup("")
    low, high = min(r[0] for r in reaches), max(r[1] for r in reaches)
    scale = (_RIGHT - _LEFT) / ((high - low) or 1.0)

    def at(value: float) -> float:
        return _LEFT + (value - low) * scale

    colours = list(series.values())
    parts, y = [], 0.0
    for name, values in clean.items():
        parts.append(text(_LEFT, y + 16, name))
        y += _HEAD
        top = y
        for i, value in enumerate(values):
            if value is not None:
                parts.append(_bar(colours[i], value, y, at))
                y += _BAR
        parts.append(rule((at(0.0), at(0.0)), (top - 1, y), "zero"))
        y += 6
    words = "; ".join(
        f"{name}: {', '.join(f'{s} {v}' for s, v in zip(series, values, strict=True) if v is not None)}"
        for name, values in clean.items()
    )
    return figure(title, f"Bars. {words}.", y + 2, parts, legend(list(series), colours=colours))


def _finite(value: Value | None) -> Value | None:
    return value if value is not None and math.isfinite(value.value) else None


def _bar(colour: int, value: Value, y: float, at: Callable[[float], float]) -> Markup:
    begin, end = sorted((at(0.0), at(value.value)))
    parts = [box(begin, y + 1, end - begin, _BAR - 4, f"area c{colour % COLOURS}")]
    if value.error is not None and math.isfinite(value.error):
        middle, ends = y + (_BAR - 2) / 2, (at(value.value - value.error), at(value.value + value.error))
        parts += [rule(ends, (middle, middle), "error")]
        parts += [rule((end, end), (middle - 4, middle + 4), "error") for end in ends]
    return joined([*parts, text(WIDTH - 2, y + _BAR - 5, value, "end")])


def share_bar(title: str, parts: Mapping[str, int]) -> Markup:
    """How a whole is made up, as one bar.

    Args:
        title: Of the chart.
        parts: Name -> how many.
    """
    total = sum(parts.values())
    if not total:
        return Markup("")
    drawn, x = [], 0.0
    for i, count in enumerate(parts.values()):
        width = WIDTH * count / total
        drawn.append(box(x, 2, max(width - 1, 0.0), 26, f"area c{i % COLOURS}"))
        x += width
    names = [f"{name}: {count:,} ({100 * count / total:.1f} %)" for name, count in parts.items()]
    frame = Markup('<rect x="0.5" y="2" width="{}" height="26" fill="none" class="grid"/>').format(
        number(WIDTH - 1)
    )
    return figure(title, f"One bar. {'; '.join(names)}.", 30, [*drawn, frame], legend(names))
