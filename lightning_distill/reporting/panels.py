"""The panels of the picture: one student's rows, and accuracies without and with a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lightning_distill.reporting.formatting import known, mean_and_error, percent
from lightning_distill.reporting.summary import GapClosed, StoryRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which people with any of the common colour blindnesses can tell apart. The labels
# carry the meaning all the same: no panel needs its colours to be read.
BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREY: Final = "#b0b0b0"
LIGHT: Final = "#e8e8e8"
INK: Final = "#222222"

BASELINES: Final = ("source-only", "scratch")
CEILING: Final = "ceiling"
SMALL: Final = 9


@dataclass(frozen=True)
class Pair:
    """Two accuracies, without and with a clip; a step where training stopped."""

    label: str
    without: float | None
    with_clip: float | None
    stopped_without: int | None = None
    stopped_with: int | None = None


def student_panel(
    axes: Axes, student: str, rows: Sequence[StoryRow], teacher: StoryRow | None, closed: GapClosed | None
) -> None:
    """Bars with whiskers of one standard error, a dot a seed; the gap between baseline and ceiling is shaded.

    Args:
        axes: Where to draw.
        student: The rows' common prefix, left out of their labels.
        rows: One bar each, top to bottom.
        teacher: Drawn as a dashed line.
        closed: Told in the title.
    """
    kinds = [row["name"].removeprefix(f"{student} ") for row in rows]
    axes.set_title(f"{student} student", loc="left", fontweight="bold", pad=38 if closed else 22)
    if closed is not None:
        share = mean_and_error(closed["mean"], closed["se"])
        _above(axes, 0, 22, f"gap closed: {share} of the shaded span", color=BLUE, ha="left")
        _shade_gap(axes, kinds, rows)
    for y, (kind, row) in enumerate(zip(kinds, rows, strict=True)):
        _bar(axes, y, kind, row)
    if teacher is not None and known(teacher["accuracy_mean"]):
        at = 100 * teacher["accuracy_mean"]
        axes.axvline(at, color=INK, linestyle="--", linewidth=1.2, zorder=3)
        side = "right" if at > 50 else "left"
        _above(axes, at, 4, f"teacher {percent(teacher['accuracy_mean'])}", color=INK, ha=side)
    _percent_axis(axes, kinds, "accuracy on the target domain's test set (%)")


def pair_panel(axes: Axes, title: str, subtitle: str, pairs: Sequence[Pair]) -> None:
    """A line from the accuracy without to the one with the clip; a cross where training stopped.

    Args:
        axes: Where to draw.
        title: In bold.
        subtitle: Beneath it.
        pairs: One line each, top to bottom.
    """
    axes.set_title(title, loc="left", fontweight="bold", pad=22)
    _above(axes, 0, 6, subtitle, color=INK, ha="left")
    for y, pair in enumerate(pairs):
        ends = [100 * a for a in (pair.without, pair.with_clip) if a is not None and known(a)]
        axes.plot(ends, [y] * len(ends), color=GREY, linewidth=2, zorder=2)
        _end(axes, y, pair.without, pair.stopped_without, clipped=False)
        _end(axes, y, pair.with_clip, pair.stopped_with, clipped=True)
        _beside(axes, y, f"{_short(pair.without)} → {_short(pair.with_clip)}")
    _percent_axis(axes, [pair.label for pair in pairs], "test accuracy (%)")


def _bar(axes: Axes, y: int, kind: str, row: StoryRow) -> None:
    mean, error = row["accuracy_mean"], row["accuracy_se"]
    colour = GREY if kind in BASELINES else "white" if kind == CEILING else BLUE
    if known(mean):
        axes.barh(y, 100 * mean, height=0.62, color=colour, edgecolor=INK, linewidth=0.8, zorder=2)
        if error is not None and known(error):
            axes.errorbar(100 * mean, y, xerr=100 * error, color=INK, capsize=4, linewidth=1.4, zorder=4)
    seeds = [100 * a for a in row["accuracies"] if known(a)]
    # Spread over the height of the bar, in the order of the seeds: equal accuracies stay visible.
    heights = [y + 0.4 * ((i + 0.5) / len(seeds) - 0.5) for i in range(len(seeds))]
    axes.scatter(seeds, heights, s=16, color="white", edgecolors=INK, linewidths=0.8, zorder=5)
    _beside(axes, y, mean_and_error(mean, error, unit=""))


def _shade_gap(axes: Axes, kinds: Sequence[str], rows: Sequence[StoryRow]) -> None:
    means = {kind: row["accuracy_mean"] for kind, row in zip(kinds, rows, strict=True)}
    floors = [means[kind] for kind in BASELINES if known(means.get(kind))]
    if floors and known(means.get(CEILING)):
        axes.axvspan(100 * max(floors), 100 * means[CEILING], color=LIGHT, zorder=0)


def _end(axes: Axes, y: int, accuracy: float | None, stopped: int | None, clipped: bool) -> None:
    if accuracy is None or not known(accuracy):
        return
    shape: dict[str, Any] = {"marker": "o" if clipped else "s", "s": 50, "edgecolors": INK, "linewidths": 0.8}
    if stopped is not None:
        shape = {"marker": "x", "s": 60, "linewidths": 2.4}
        left = accuracy < 0.5
        axes.annotate(
            f"stopped at step {stopped}",
            (100 * accuracy, y),
            xytext=(-4 if left else 4, -5 if clipped else 5),
            textcoords="offset points",
            ha="left" if left else "right",
            va="top" if clipped else "bottom",
            fontsize=SMALL - 1,
        )
    axes.scatter([100 * accuracy], [y], color=BLUE if clipped else VERMILION, zorder=4, **shape)


def _short(accuracy: float | None) -> str:
    return percent(accuracy).removesuffix(" %")


def _beside(axes: Axes, y: int, text: str) -> None:
    """Right of the axes, where no bar reaches."""
    axes.annotate(text, (1.03, y), xycoords=("axes fraction", "data"), va="center", fontsize=SMALL)


def _above(axes: Axes, x: float, points: float, text: str, *, color: str, ha: str) -> None:
    """Above the axes, `points` higher than their upper edge."""
    axes.annotate(
        text,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, points),
        textcoords="offset points",
        ha=ha,
        color=color,
        fontsize=SMALL,
        annotation_clip=False,
    )


def _percent_axis(axes: Axes, labels: Sequence[str], title: str) -> None:
    axes.set_xlim(0, 100)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(title, fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=LIGHT, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
