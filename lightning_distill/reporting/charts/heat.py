"""A map of numbers in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from lightning_distill.reporting.charts.drawing import WIDTH, figure, joined, number, text

_CELL_HEIGHT, _LABEL, _SHOWN = 24.0, 9, 10
"""Height of a row; characters of a label; columns up to which a cell has room for its number."""
_LEFT: Final = 34.0


def heat_map(
    title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]]
) -> Markup:
    """Cells that are the fuller the larger their number, with the number in each where there is room.

    Rows and columns are numbered, for names of layers are long; say which is which in a table beside it.

    Args:
        title: Of the chart.
        rows: A short label each, such as `S1`.
        columns: A short label each.
        values: In [0, 1], one list a row.
    """
    if not rows or not columns:
        return Markup("")
    width = (WIDTH - _LEFT - 2) / len(columns)
    parts = [
        text(_LEFT + (j + 0.5) * width, 14, name[:_LABEL], "middle") for j, name in _named(columns, width)
    ]
    for i, row in enumerate(values):
        y = 20 + i * _CELL_HEIGHT
        parts.append(text(_LEFT - 6, y + 16, rows[i][:_LABEL], "end"))
        parts += [_cell(_LEFT + j * width, y, width, v, len(columns) <= _SHOWN) for j, v in enumerate(row)]
    known = [
        (value, f"{r} and {c}")
        for r, row in zip(rows, values, strict=True)
        for c, value in zip(columns, row, strict=True)
        if value == value
    ]
    most = "largest {:.2f}, at {}".format(*max(known)) if known else "no number is known"
    words = f"Map of {len(rows)} rows and {len(columns)} columns; {most}."
    return figure(title, words, 22 + len(rows) * _CELL_HEIGHT, parts)


def _named(columns: Sequence[str], width: float) -> list[tuple[int, str]]:
    """Columns whose label has room beside its neighbours."""
    every = max(1, -int(-26 // width))
    return [(j, name) for j, name in enumerate(columns) if j % every == 0]


def _cell(x: float, y: float, width: float, value: float, shown: bool) -> Markup:
    known = value == value
    inside = f"{value:.2f}".replace("0.", ".", 1) if known else "?"
    cell = Markup('<rect x="{}" y="{}" width="{}" height="{}" class="cell" style="--v:{}"/>').format(
        *(number(v) for v in (x, y, width, _CELL_HEIGHT)),
        f"{min(max(value, 0.0), 1.0):.2f}" if known else "0",
    )
    return joined([cell, text(x + width / 2, y + 16, inside, "middle")]) if shown else cell
