"""Which curves belong on which chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from markupsafe import Markup

from lightning_distill.reporting.charts import Line, line_chart
from lightning_distill.reporting.formatting import is_share

if TYPE_CHECKING:
    from lightning_distill.explanation.curves import Curve

MOST: Final = 8
"""Lines of a chart."""
_BEFORE, _CLIPPED = "/norm_before/", "/clipped_share/"


class Group(NamedTuple):
    """Charts that are read together.

    Attributes:
        title: Their heading.
        how: How to read them.
        charts: One or more.
    """

    title: str
    how: str
    charts: Sequence[Markup]


def curve_groups(curves: Mapping[str, Curve]) -> list[Group]:
    """Charts of what a run has logged; a group without curves is left out.

    Args:
        curves: By their names.
    """
    terms = [n for n in curves if n.startswith("train/") and f"{n}_weighted" in curves]
    of_terms = {f"val/{n.removeprefix('train/')}" for n in terms} | {"val/loss"}
    metrics = [n for n in curves if n.startswith("val/") and n not in of_terms]
    shares = [n for n in metrics if _is_share(n.rpartition("/")[2])]
    learning = [
        _chart("Loss", curves, [n for n in ("train/loss", "val/loss") if n in curves]),
        _chart("Validation: shares of 1", curves, shares, low=0.0),
        *(_chart(n, curves, [n]) for n in metrics[:MOST] if n not in shares),
        _chart("Learning rate", curves, [n for n in curves if n.startswith("lr")]),
    ]
    of_losses = [
        _chart("Terms as they are", curves, terms),
        _chart("Terms times their weights", curves, [f"{n}_weighted" for n in terms]),
        _chart("Share of the gradient", curves, [n for n in curves if n.startswith("gradient_share/")], 0.0),
        _chart("Cosine with the task", curves, [n for n in curves if n.startswith("gradient_cosine/")], -1.0),
    ]
    of_parts = [
        _lines("Share of the gradient, before clipping", _norm_shares(curves), 0.0),
        _chart("Share of entries clipped", curves, [n for n in curves if _CLIPPED in n], 0.0),
    ]
    groups = [
        Group("Learning", "Where validation turns while training goes on, the model overfits.", learning),
        Group(
            "Terms of the loss",
            "A term with a share near 0 does nothing; a cosine below 0 pulls against the task.",
            of_losses if len(terms) > 1 else [],
        ),
        Group(
            "Modalities and parts of the model",
            "A modality whose share stays near 0 starves. Where nearly all entries are clipped, only their "
            "signs are left.",
            of_parts,
        ),
    ]
    drawn = [Group(title, how, [chart for chart in charts if chart]) for title, how, charts in groups]
    return [group for group in drawn if group.charts]


def _is_share(metric: str) -> bool:
    return is_share(metric) or metric in ("agreement", "calibration_error")


def _chart(title: str, curves: Mapping[str, Curve], names: Sequence[str], low: float | None = None) -> Markup:
    lines = [Line(_short(n, names), curves[n].steps, curves[n].values) for n in names]
    return _lines(title, lines, low)


def _lines(title: str, lines: Sequence[Line], low: float | None) -> Markup:
    lines = [line for line in lines if len(line.y)]
    more = len(lines) - MOST
    if more > 0:
        lines = sorted(lines, key=lambda line: -line.y[-1])[:MOST]
        title = f"{title} (the {MOST} highest; {more} more)"
    return line_chart(title, lines, low=low)


def _short(name: str, names: Sequence[str]) -> str:
    """The part in which names of one chart differ.

    >>> _short("train/kd_weighted", ["train/kd_weighted", "train/task_weighted"])
    'kd'
    >>> _short("val/loss", ["train/loss", "val/loss"])
    'val/loss'
    """
    heads = {other.rpartition("/")[0] for other in names}
    own = name.rpartition("/")[2] if len(heads) == 1 and len(names) > 1 else name
    return own.removesuffix("_weighted")


def _norm_shares(curves: Mapping[str, Curve]) -> list[Line]:
    """Norm of each part's gradient by the sum of all norms, at steps where all are known."""
    names = [name for name in curves if _BEFORE in name]
    heads = {name.partition(_BEFORE)[0] for name in names}
    lines = []
    for head in sorted(heads):
        own = {
            n: dict(zip(curves[n].steps, curves[n].values, strict=True))
            for n in names
            if n.startswith(head + _BEFORE)
        }
        if len(own) < 2:
            continue
        steps = sorted(set.intersection(*(set(values) for values in own.values())))
        total = {step: sum(values[step] for values in own.values()) for step in steps}
        steps = [step for step in steps if total[step] > 0]
        for name, values in own.items():
            place = "" if len(heads) == 1 else f"{head} "
            lines.append(
                Line(place + name.partition(_BEFORE)[2], steps, [values[s] / total[s] for s in steps])
            )
    return lines
