"""How variants take turns: one thread, process CPU time, rotated order, ratios round by round."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from rich.console import Console
from rich.table import Table


def cpu_seconds(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every variant in every round, after one round that does not count."""
    names = list(variants)
    for work in variants.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            start = time.process_time()
            variants[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


def ratio(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Median of one by the other over the rounds, with the least and the largest."""
    return spread([x / y for x, y in zip(one, other, strict=True)])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and largest."""
    found = {"median": median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in found.items()}


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error; of a single value there is none."""
    return mean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def report(
    seconds: Mapping[str, Sequence[float]], items: int, base: str, packages: Sequence[str], note: str
) -> dict[str, Any]:
    """What is written to the file: ratios to `base`, microseconds an item, and where it was measured."""
    return {
        "base": base,
        "ratios": {name: ratio(found, seconds[base]) for name, found in seconds.items()},
        "microseconds": {name: round(1e6 * median(found) / items, 2) for name, found in seconds.items()},
        "items": items,
        "rounds": len(seconds[base]),
        "note": note,
        "about": about(packages),
    }


def about(packages: Sequence[str]) -> dict[str, Any]:
    """Python, machine, and the versions of the packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "machine": platform.machine(), "packages": found}


def write(path: Path, result: Mapping[str, Any]) -> None:
    """The result as JSON, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def show(result: Mapping[str, Any]) -> None:
    """The result as a table."""
    table = Table("variant", "us each", f"times {result['base']}", title=result["note"])
    for name, found in result["ratios"].items():
        span = f"{found['median']:.2f} [{found['min']:.2f}..{found['max']:.2f}]"
        table.add_row(name, f"{result['microseconds'][name]:,.1f}", span)
    Console().print(table)
