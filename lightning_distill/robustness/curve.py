"""A robustness curve, and the two numbers that sum it up."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_distill.errors import ConfigError, nearest


@dataclass(frozen=True)
class Curve:
    """Metrics over the levels of one corruption of one modality.

    Attributes:
        corruption: Its name.
        modality: What got worse.
        levels: Rising from 0, as it was, to at most 1.
        metrics: Name -> a value for each level; empty where there are no samples.
        samples: How many each value is of.
        unchanged: How many of these stay as they are at every level, such as those that lack the modality.
    """

    corruption: str
    modality: str
    levels: tuple[float, ...]
    metrics: dict[str, tuple[float, ...]]
    samples: int
    unchanged: int


def area(curve: Curve, metric: str) -> float:
    """Mean of the curve over the levels, by trapezoids: sum (l_k+1 - l_k) (f_k + f_k+1) / 2 / (l_last - l_0).

    Args:
        curve: The curve.
        metric: One of its metrics.

    Raises:
        ConfigError: If there is no such metric.

    Source: Liang et al., MultiBench (2107.07502), relative robustness. The paper takes the area; divided by
    the width of the levels it has the metric's own unit. The authors' code fixes steps of 0.1 and rescales
    the areas of all methods to [0, 1]; here levels may lie anywhere and nothing is rescaled.

    >>> area(Curve("noise", "image", (0.0, 0.5, 1.0), {"accuracy": (0.9, 0.7, 0.1)}, 10, 0), "accuracy")
    0.6
    """
    values, levels = _values(curve, metric), curve.levels
    steps = zip(levels, levels[1:], values, values[1:], strict=False)
    return sum((b - a) * (f + g) / 2 for a, b, f, g in steps) / (levels[-1] - levels[0])


def effective(curve: Curve, reference: Curve, metric: str) -> float:
    """How much less than a reference the curve falls: mean over the levels of (f_k - f_0) - (r_k - r_0).

    Above 0 the model loses less than the reference; where less is better, as with errors, below 0.

    Args:
        curve: The curve f.
        reference: The curve r, of the same levels.
        metric: One of the metrics of both.

    Raises:
        ConfigError: If the levels differ, or there is no such metric.

    Source: Liang et al., MultiBench (2107.07502), effective robustness, after Taori et al. (2007.00644). The
    authors' code sums over the levels, takes late fusion as the reference, and rescales over all methods.

    >>> ours = Curve("noise", "image", (0.0, 1.0), {"accuracy": (0.75, 0.5)}, 10, 0)
    >>> theirs = Curve("noise", "image", (0.0, 1.0), {"accuracy": (1.0, 0.25)}, 10, 0)
    >>> effective(ours, theirs, "accuracy")
    0.25
    """
    if curve.levels != reference.levels:
        raise ConfigError(
            where="effective robustness",
            found=f"levels {curve.levels} and {reference.levels}",
            expected="the same levels",
            fix="measure both curves at the same levels",
        )
    f, r = _values(curve, metric), _values(reference, metric)
    return sum((a - f[0]) - (b - r[0]) for a, b in zip(f, r, strict=True)) / len(f)


def _values(curve: Curve, metric: str) -> tuple[float, ...]:
    if metric not in curve.metrics:
        raise ConfigError(
            where=f"curve of {curve.corruption}, {curve.modality}",
            found=f"no metric {metric!r}{nearest(metric, curve.metrics)}",
            expected=f"one of {', '.join(curve.metrics) or 'none, for there were no samples'}",
            fix="name one of these",
        )
    return curve.metrics[metric]
