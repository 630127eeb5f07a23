"""Charts as SVG within HTML: pure functions from numbers to markup, without a script or a picture file."""

from lightning_distill.reporting.charts.bars import Value, bar_chart, share_bar
from lightning_distill.reporting.charts.heat import heat_map
from lightning_distill.reporting.charts.interval import interval_chart
from lightning_distill.reporting.charts.lines import Line, line_chart
from lightning_distill.reporting.charts.reliability import reliability_chart

__all__ = [
    "Line",
    "Value",
    "bar_chart",
    "heat_map",
    "interval_chart",
    "line_chart",
    "reliability_chart",
    "share_bar",
]
