"""What a model is worth with each subset of its modalities: a table and a JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from lightning_distill.reporting.atomic import write_json
from lightning_distill.reporting.formatting import metric_heading, metric_value

if TYPE_CHECKING:
    from lightning_distill.evaluation import SubsetResult


def subset_table(results: Sequence[SubsetResult], title: str) -> Table:
    """A line for each subset of the modalities: ticks, samples, metrics (shares in percent).

    Args:
        results: As `evaluate_subsets` returns them.
        title: What was evaluated on what.
    """
    modalities = list(dict.fromkeys(m for result in results for m in result.modalities))
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    table = Table(title=Text(f"{title}\n", style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    table.show_edge, table.pad_edge = False, False
    for modality in modalities:
        table.add_column(Text(modality), justify="center")
    table.add_column("samples", justify="right")
    for name in names:
        table.add_column(Text(metric_heading(name)), justify="right", overflow="fold")
    for result in results:
        ticks = ["✓" if m in result.modalities else "" for m in modalities]
        table.add_row(*ticks, f"{result.samples:,}", *(metric_value(n, result.metrics.get(n)) for n in names))
    return table


def save_subsets(results: Sequence[SubsetResult], split: str, path: Path | str) -> Path:
    """Write the results as JSON; NaN and infinity become null.

    Args:
        results: As `evaluate_subsets` returns them.
        split: What they were measured on.
        path: The file; its folder is made where needed.

    Returns:
        The path.
    """
    return write_json(path, {"split": split, "subsets": [asdict(result) for result in results]})
