"""Tables and pictures of `cross_domain.py`, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lightning_distill.reporting.figures import COLOURS, MARKERS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACES: Final = ("pairs", "methods", "validators")
"""Tables of the page, each between two lines that `marks` gives."""
COLUMNS: Final = ("source_only", "alignment", "distillation", "both", "ceiling")
LABELS: Final = {
    "source_only": "source only",
    "alignment": "alignment",
    "distillation": "distillation",
    "both": "both",
    "ceiling": "ceiling",
}

Found = Mapping[str, Any]


def marks(place: str) -> tuple[str, str]:
    """The lines before and after a table."""
    return f"<!-- {place}: python benchmarks/cross_domain.py --report FILE -->", f"<!-- end of {place} -->"


def write(page: Path, report: Found) -> None:
    """Put the tables between their marks, and the pictures beside the page.

    Raises:
        SystemExit: If a mark is not there exactly once.
    """
    text = page.read_text(encoding="utf-8")
    for place, made in zip(PLACES, (pairs, methods, validators), strict=True):
        begin, end = marks(place)
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"{page} needs one line {begin!r} and, below, one line {end!r}")
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n{made(report)}\n{end}{after}"
    page.write_text(text, encoding="utf-8")
    save_figure(gaps(report), page.with_name("cross-domain-gaps.png"))
    save_figure(ranks(report), page.with_name("cross-domain-validators.png"))


def _rows(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(names) + " |", "|---|" + "--:|" * (len(names) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _with_error(value: float, error: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} ± {100 * error:.{digits}f}"


def pairs(report: Found) -> str:
    """Pair | columns | share of the gap closed | labels of both | the text's part."""
    rows = []
    for name, row in report["pairs"].items():
        errors = row["standard_errors"]
        cells = [name, *(_with_error(row[c], errors[c]) for c in COLUMNS)]
        cells.append(_with_error(row["gap_closed"], row["se"], 0))
        cells.append(_with_error(row["ceiling_both"], errors["ceiling_both"]))
        part = row.get("text_part")
        rows.append([*cells, "" if part is None else f"{100 * part['mean']:+.1f} ± {100 * part['se']:.1f}"])
    names = ["source -> target", *LABELS.values(), "gap closed, %", "labels of both", "text's part"]
    return _rows(names, rows)


def methods(report: Found) -> str:
    """Pair | what was chosen for each column | by which validator."""
    free = ("alignment", "distillation", "both")
    rows = [
        [name, *(row["methods"][c] for c in free), row["validator"], f"{row['regret']:.1f}"]
        for name, row in report["pairs"].items()
    ]
    return _rows(["source -> target", *free, "chosen by", "regret, points"], rows)


def validators(report: Found) -> str:
    """Validator | rank correlation with the true accuracy and regret, for each pair and in the mean."""
    rows = []
    for name, found in _by_regret(report):
        cells = [f"{one['spearman']:+.2f} / {one['regret']:.1f}" for one in found.values()]
        mean = [float(np.mean([one[key] for one in found.values()])) for key in ("spearman", "regret")]
        rows.append([name, *cells, f"{mean[0]:+.2f} / {mean[1]:.1f}"])
    return _rows(["validator", *report["pairs"], "mean"], rows)


def _by_regret(report: Found) -> list[tuple[str, Found]]:
    def mean(found: Found) -> float:
        return float(np.mean([one["regret"] for one in found.values()]))

    return sorted(report["validators"].items(), key=lambda item: mean(item[1]))


def gaps(report: Found) -> Figure:
    """Accuracies of every pair from source only to the ceiling."""
    figure = new_figure(9, 0.55 * len(report["pairs"]) + 1.4)
    axes = figure.subplots()
    names = list(report["pairs"])[::-1]
    for at, name in enumerate(names):
        row = report["pairs"][name]
        axes.plot([100 * row["source_only"], 100 * row["ceiling"]], [at, at], color="#C9D1D9", lw=4, zorder=1)
    for column, colour, marker in zip(COLUMNS, ("#222222", *COLOURS), MARKERS, strict=False):
        rows = [report["pairs"][name] for name in names]
        axes.errorbar(
            [100 * row[column] for row in rows],
            range(len(names)),
            xerr=[100 * row["standard_errors"][column] for row in rows],
            fmt=marker,
            color=colour,
            ms=6,
            lw=1,
            label=LABELS[column],
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("accuracy on the target's test set, %, with standard error")
    axes.grid(axis="x", color="#E3E7EB")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=5, frameon=False)
    return figure


def ranks(report: Found) -> Figure:
    """Rank correlation of every validator with the true accuracy, on every pair."""
    rows = _by_regret(report)
    names = list(report["pairs"])
    values = np.array([[found[pair]["spearman"] for pair in names] for _, found in rows])
    figure = new_figure(10, 0.42 * len(rows) + 2.0)
    axes = figure.subplots()
    shown = axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 else "#222222"
        axes.text(x, y, f"{value:+.2f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xticks(range(len(names)), [name.replace(" to ", "\nto ") for name in names], fontsize=8)
    figure.colorbar(shown, label="Spearman's rank correlation\nwith the target's accuracy")
    return figure
