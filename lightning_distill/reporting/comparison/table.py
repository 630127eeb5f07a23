"""Runs side by side in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from lightning_distill.errors import printable
from lightning_distill.reporting.comparison.rows import (
    Row,
    environment_rows,
    fact_rows,
    metric_rows,
    setting_rows,
)
from lightning_distill.reporting.comparison.runs import ComparedRun

_CELL = 200
"""Characters of a cell."""


def comparison_tables(runs: Sequence[ComparedRun]) -> list[Table]:
    """Metrics, with the best in bold and marked by `*`; then what differs.

    Args:
        runs: In the order of the columns.
    """
    parts = (
        ("metrics at each run's best checkpoint (* best)", metric_rows(runs), "right"),
        ("size and time", fact_rows(runs), "right"),
        ("settings that differ", setting_rows(runs), "left"),
        ("made with, where it differs", environment_rows(runs), "left"),
    )
    names = [run.name for run in runs]
    return [_table(title, names, rows, side == "right") for title, rows, side in parts if rows]


def _table(title: str, names: Sequence[str], rows: Sequence[Row], numbers: bool) -> Table:
    table = Table(title=Text(f"{title}\n", style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    table.show_edge, table.pad_edge = False, False
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(Text(printable(name)), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        cells = [
            Text(f"{printable(cell, _CELL)} *", style="bold")
            if i in row.best
            else Text(printable(cell, _CELL))
            for i, cell in enumerate(row.cells)
        ]
        table.add_row(Text(printable(row.name, _CELL)), *cells)
    return table
