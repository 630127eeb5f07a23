"""Table and picture of `fusion.py`, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lightning_distill.reporting.figures import COLOURS, MARKERS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEGIN: Final = "<!-- table: python benchmarks/fusion.py --report FILE -->"
END: Final = "<!-- end of table -->"
PICTURE: Final = "fusion-heads.png"
INK: Final = "#222222"

Found = Mapping[str, Any]


def write(page_at: Path, report: Found) -> None:
    """Put the table between the two markers of a page, and the picture beside it.

    Raises:
        SystemExit: If the page has no such markers.
    """
    text = page_at.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{page_at} needs one line {BEGIN!r} and, below, one line {END!r}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page_at.write_text(f"{before}{BEGIN}\n{table(report)}\n{END}{after}", encoding="utf-8")
    save_figure(picture(report), page_at.with_name(PICTURE))


def by_accuracy(report: Found) -> list[tuple[str, Found]]:
    """Heads with their rows, best first."""
    return sorted(report["heads"].items(), key=lambda pair: -pair[1]["accuracy"])


def table(report: Found) -> str:
    """Head | accuracy | over concatenation | without each modality | parameters | ms | rate."""
    modalities = list(next(iter(report["heads"].values()))["absent"])
    names = ["head", "accuracy", "over concat", *(f"without {m}" for m in modalities)]
    names += ["parameters", "ms a step", "rate"]
    lines = ["| " + " | ".join(names) + " |", "|---|" + "--:|" * (len(names) - 1)]
    for head, row in by_accuracy(report):
        cells = [f"`{head}`", percent(row["accuracy"], row["se"])]
        gain = row["over_concat"]
        cells.append("" if not gain["se"] else percent(gain["mean"], gain["se"], "+"))
        cells += [percent(row["absent"][m], row["absent_se"][m]) for m in modalities]
        cells += [f"{row['params']:,}", f"{row['ms']:.1f}", f"{row['rate']:g}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def percent(value: float, error: float | None, sign: str = "") -> str:
    """In percent, with its error.

    >>> percent(0.9712, 0.0031)
    '97.1 ± 0.3'
    """
    told = f"{100 * value:{sign}.1f}"
    return told if error is None else f"{told} ± {100 * error:.1f}"


def picture(report: Found) -> Figure:
    """Accuracies at the left, what a step costs at the right; best head on top."""
    rows = by_accuracy(report)[::-1]
    figure = new_figure(11, 0.3 * len(rows) + 1.6)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    places = list(range(len(rows)))
    _accuracies(left, rows, places)
    right.barh(places, [row["ms"] for _, row in rows], color="#9AA5B1", height=0.6)
    for at, (_, row) in zip(places, rows, strict=True):
        right.annotate(
            f"{row['ms']:.1f}", (row["ms"], at), (3, 0), textcoords="offset points", va="center", size=8
        )
    right.margins(x=0.15)
    right.set_xlabel("ms a training step of 64")
    left.set_yticks(places, [head for head, _ in rows], fontsize=9)
    figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=9)
    for axes in (left, right):
        axes.grid(axis="x", color="#E3E7EB")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _accuracies(axes: Axes, rows: list[tuple[str, Found]], places: list[int]) -> None:
    def draw(values: list[float], errors: list[float | None], label: str, colour: str, marker: str) -> None:
        spread = [100 * (error or 0.0) for error in errors]
        axes.errorbar(
            [100 * v for v in values], places, xerr=spread, fmt=marker, color=colour, ms=5, label=label, lw=1
        )

    for modality, colour, marker in zip(rows[0][1]["absent"], COLOURS, MARKERS[1:], strict=False):
        values = [row["absent"][modality] for _, row in rows]
        errors = [row["absent_se"][modality] for _, row in rows]
        draw(values, errors, f"without {modality}", colour, marker)
    draw([row["accuracy"] for _, row in rows], [row["se"] for _, row in rows], "everything there", INK, "o")
    axes.set_xlabel("accuracy on the test set, %, with standard error")
