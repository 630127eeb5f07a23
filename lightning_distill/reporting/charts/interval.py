"""A value and how far it can be believed."""

from __future__ import annotations

from markupsafe import Markup

from lightning_distill.reporting.charts.drawing import WIDTH, figure, number, rule, text, ticks, told, widened

_LEFT, _RIGHT, _MIDDLE, _HEIGHT = 16.0, WIDTH - 16.0, 22.0, 66.0


def interval_chart(title: str, value: float, low: float, high: float) -> Markup:
    """A point and its interval on an axis with zero.

    Args:
        title: Of the chart.
        value: Within the interval.
        low: Its lower end.
        high: Its upper end.
    """
    begin, end = widened(min(low, value, 0.0), max(high, value, 0.0))
    room = 0.08 * (end - begin)
    begin, end = begin - room, end + room

    def x(number_: float) -> float:
        return _LEFT + (number_ - begin) / (end - begin) * (_RIGHT - _LEFT)

    axis = [rule((_LEFT, _RIGHT), (40, 40)), rule((x(0), x(0)), (4, 40), "zero")]
    axis += [text(x(t), 57, told(t), "middle") for t in ticks(begin, end)]
    whisker = [rule((x(low), x(high)), (_MIDDLE, _MIDDLE), "error")]
    whisker += [rule((x(v), x(v)), (_MIDDLE - 6, _MIDDLE + 6), "error") for v in (low, high)]
    dot = Markup('<circle cx="{}" cy="{}" r="6" class="area c0"/>').format(number(x(value)), number(_MIDDLE))
    words = f"{told(value)}, interval from {told(low)} to {told(high)}; zero is marked."
    return figure(title, words, _HEIGHT, [*axis, *whisker, dot])
