"""What all pictures have in common: a figure that leaves nothing behind, colours, and how it is written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lightning_distill.reporting.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI: Final = 150
"""1800 pixels for 12 inches: sharp on a dense screen, and 9 points are still 12.5 pixels at 1200."""
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's; lines also differ in their markers."""
MARKERS: Final = "osD^vPX"


def new_figure(width: float, height: float, layout: Any = "constrained") -> Figure:
    """An empty figure outside pyplot: nothing of it stays behind.

    Args:
        width: Inches.
        height: Inches.
        layout: As matplotlib takes it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write a PNG, whole or not at all.

    Args:
        figure: Drawn.
        path: Ends in `.png`; its folder is made where needed.

    Returns:
        The path.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_atomically(path, buffer.getvalue())
