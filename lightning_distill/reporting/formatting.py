"""How numbers are written, the same in terminal, picture and page."""

from __future__ import annotations

import math

MISSING = "n/a"
_SHARES = ("accuracy", "f1", "precision", "match")
"""Last words of metrics that are shares of 1."""


def known(value: float | None) -> bool:
    """Whether there is a number to show: neither None nor NaN nor infinite."""
    return value is not None and math.isfinite(value)


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal.

    >>> percent(0.9784), percent(None)
    ('97.8 %', 'n/a')
    """
    return MISSING if fraction is None or not known(fraction) else f"{100 * fraction:.1f} %"


def mean_and_error(mean: float | None, error: float | None, unit: str = " %") -> str:
    """Mean and standard error of a fraction, as percentages with one decimal.

    Args:
        mean: A fraction.
        error: Its standard error; None or NaN, as for a single seed, leaves the mean alone.
        unit: What follows the mean.

    >>> mean_and_error(0.8812, 0.0301), mean_and_error(0.8812, float("nan"))
    ('88.1 % ± 3.0', '88.1 %')
    """
    if mean is None or not known(mean):
        return MISSING
    spread = f" ± {100 * error:.1f}" if error is not None and known(error) else ""
    return f"{100 * mean:.1f}{unit}{spread}"


def decimals(value: float | None, places: int = 3) -> str:
    """A plain number.

    >>> decimals(0.01234), decimals(float("nan"))
    ('0.012', 'n/a')
    """
    return MISSING if value is None or not known(value) else f"{value:.{places}f}"


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1, to be shown in percent.

    >>> is_share("macro_f1"), is_share("mae")
    (True, False)
    """
    return metric.rpartition("_")[2] in _SHARES


def metric_heading(metric: str) -> str:
    """A metric's name and unit.

    >>> metric_heading("macro_f1")
    'macro f1 %'
    """
    return metric.replace("_", " ") + (" %" if is_share(metric) else "")


def metric_value(metric: str, value: float | None) -> str:
    """What stands below `metric_heading`.

    >>> metric_value("accuracy", 0.9784), metric_value("mae", 0.9784)
    ('97.8', '0.978')
    """
    return percent(value).removesuffix(" %") if is_share(metric) else decimals(value)


def setting(value: object) -> str:
    """A setting: long floats are shortened, whole ones lose their zero.

    >>> setting(0.004), setting(1000.0), setting(True), setting("AdamW")
    ('0.004', '1000', 'True', 'AdamW')
    """
    return f"{value:g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Seconds, and minutes from two minutes on.

    >>> duration(7.31), duration(171)
    ('7.3 s', '2 min 51 s')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"
