"""Accuracy over confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from lightning_distill.reporting.charts.drawing import COLOURS, WIDTH, box, figure, number, rule, text

if TYPE_CHECKING:
    from lightning_distill.explanation.calibration import Calibration

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 46.0, WIDTH - 12.0, 10.0, 250.0, 288.0


def reliability_chart(title: str, found: Calibration, colour: int = 0) -> Markup:
    """Bars of the accuracy of samples of similar confidence, against the diagonal of an honest model.

    Args:
        title: Of the chart.
        found: Its bins.
        colour: Number of the colour.
    """

    def x(share: float) -> float:
        return _LEFT + share * (_RIGHT - _LEFT)

    def y(share: float) -> float:
        return _BOTTOM - share * (_BOTTOM - _TOP)

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [
            rule((x(0), x(1)), (y(share), y(share))),
            text(_LEFT - 6, y(share) + 4, f"{share:g}", "end"),
        ]
        parts.append(text(x(share), _BOTTOM + 16, f"{share:g}", "middle"))
    most = max((b.samples for b in found.bins), default=1)
    colour %= COLOURS
    for b in found.bins:
        left, width = x(b.low) + 1, x(b.high) - x(b.low) - 2
        parts.append(box(left, y(b.accuracy), width, _BOTTOM - y(b.accuracy), f"pale c{colour}"))
        dot = Markup('<circle cx="{}" cy="{}" r="{}" class="area c{}"/>')
        # Its area goes with the number of samples.
        size = number(2 + 5 * (b.samples / most) ** 0.5)
        parts.append(dot.format(number(x(b.confidence)), number(y(b.accuracy)), size, colour))
    parts.append(rule((x(0), x(1)), (y(0), y(1)), "ideal"))
    parts.append(text((_LEFT + _RIGHT) / 2, _HEIGHT - 4, "confidence (across), accuracy (up)", "middle"))
    told = "; ".join(
        f"at {b.confidence:.2f} accuracy {b.accuracy:.2f} of {b.samples} samples" for b in found.bins
    )
    words = f"Calibration error {found.error:.3f}. By confidence: {told or 'no samples'}."
    return figure(f"{title}: calibration error {found.error:.3f}", words, _HEIGHT, parts)
