"""What all charts are made of: text, lines, ticks, legends, and the frame with its words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from markupsafe import Markup

from lightning_distill.reporting.web import plain

WIDTH: Final = 360.0
"""Of a chart, in its own units: about the width of a phone, so that 12 units of type stay readable there."""
COLOURS: Final = 6
"""Classes `c0` to `c5` of charts.css."""
DASHES: Final = ("", "7 4", "2 3", "9 3 2 3", "14 4", "4 2 1 2")
"""Lines differ in these too, for those who do not see the colours."""


def figure(
    title: str, words: str, height: float, inside: Iterable[Markup], legend: Markup | str = ""
) -> Markup:
    """A chart with its heading and its description.

    Args:
        title: Stands above it.
        words: What it shows, said to those who do not see it.
        height: In its own units.
        inside: What is drawn.
        legend: Markup below it.
    """
    title, words = plain(title, 120), plain(words, 3000)
    label = f"{title}. {words}"
    heading = Markup("<figcaption><bdi>{}</bdi></figcaption>").format(title)
    drawn = Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title><desc>{}</desc>{}</svg>'
    )
    svg = drawn.format(number(WIDTH), number(height), label, title, words, joined(inside))
    return Markup("<figure>{}{}{}</figure>").format(heading, svg, legend)


def joined(parts: Iterable[Markup]) -> Markup:
    """One piece of markup."""
    return Markup("").join(parts)


def number(value: float) -> str:
    """A coordinate: a tenth of a unit is finer than any eye.

    >>> number(3.14159), number(2.0)
    ('3.1', '2')
    """
    return f"{value:.1f}".removesuffix(".0")


def told(value: float) -> str:
    """A value as people read it, in few characters.

    >>> told(0.123456), told(1234.0), told(12000), told(0.00001), told(-3.0)
    ('0.123', '1234', '12k', '1e-5', '-3')
    """
    size = abs(value)
    if 0 < size < 1e-3 or size >= 1e6:
        mantissa, _, power = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    if size < 1000:
        return f"{value:.3g}"
    return f"{value:.0f}" if size < 1e4 else f"{value / 1000:.3g}k"


def text(x: float, y: float, words: object, anchor: str = "start") -> Markup:
    """A piece of text.

    Args:
        x: Where it is anchored.
        y: Its base line.
        words: What it says.
        anchor: "start", "middle" or "end".
    """
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        number(x), number(y), anchor, words
    )


def rule(x: tuple[float, float], y: tuple[float, float], kind: str = "grid") -> Markup:
    """A straight line.

    Args:
        x: Where it begins and ends.
        y: Where it begins and ends.
        kind: Its class in charts.css.
    """
    ends = (number(v) for v in (x[0], y[0], x[1], y[1]))
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(*ends, kind)


def box(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    """A rectangle of a class in charts.css; its width is never below 0."""
    sides = (number(v) for v in (x, y, max(width, 0.0), height))
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"/>').format(*sides, kind)


def legend(entries: Sequence[str], dashed: bool = False, colours: Sequence[int] | None = None) -> Markup:
    """Names beside their colours, as a list.

    Args:
        entries: In the order of the colours.
        dashed: Whether it is of lines, else of areas.
        colours: Number of each entry's colour; None is 0, 1, 2, ...
    """
    items = []
    for i, entry in enumerate(entries):
        shape = (
            Markup('<line x1="0" y1="6" x2="27" y2="6" class="line" stroke-dasharray="{}"/>').format(dash(i))
            if dashed
            else box(7, 0, 13, 12, "area")
        )
        colour = i if colours is None else colours[i]
        swatch = Markup('<svg viewBox="0 0 27 12" class="c{}" aria-hidden="true">{}</svg>')
        items.append(
            Markup("<li>{}<bdi>{}</bdi></li>").format(swatch.format(colour % COLOURS, shape), plain(entry))
        )
    return Markup('<ul class="legend">{}</ul>').format(joined(items)) if items else Markup("")


def dash(i: int) -> str:
    """Pattern of the i-th line; beyond the colours it moves on, so that no two lines are alike."""
    return DASHES[(i + i // COLOURS) % len(DASHES)]


def ticks(low: float, high: float, most: int = 5) -> tuple[float, ...]:
    """Round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: Smaller than `high`.
        high: Largest.
        most: How many there may be, or one more.

    >>> ticks(0.0, 1.0), ticks(3, 97)
    ((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), (20.0, 40.0, 60.0, 80.0))
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1))


def widened(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty.

    >>> widened(2.0, 2.0), widened(0.0, 1.0)
    ((1.9, 2.1), (0.0, 1.0))
    """
    if high > low:
        return low, high
    room = 0.05 * abs(low) or 0.5
    return low - room, high + room
