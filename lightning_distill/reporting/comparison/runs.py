"""What a run's folder says of it, without loading what it trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lightning_distill.flat_settings import flat_settings
from lightning_distill.security.secrets import redacted_values

if TYPE_CHECKING:
    from lightning_distill.explanation.curves import Curve

_MONITOR: Final = ("val/accuracy", "max")
"""What `fit` monitors where nobody says otherwise."""
_NOT_COMPARED: Final = ("wandb_id", "before")
_LARGEST: Final = 100_000_000
"""Bytes of a header of tensors."""


@dataclass(frozen=True)
class ComparedRun:
    """One run.

    Attributes:
        name: As the user has named it.
        monitor: Metric by which its best checkpoint was chosen, and "min" or "max".
        metrics: Of validation at the step where the monitor is best, of the test at the end.
        curves: Name -> curve.
        settings: Dotted key -> value, without secrets.
        environment: Dotted key -> value of env.json.
        steps: Optimizer steps; None where nothing was logged.
        parameters: Numbers in the exported student, buffers too; None where there is none.
        seconds: From start to last checkpoint, by the dates of the files; None where they do not tell.
    """

    name: str
    monitor: tuple[str, str]
    metrics: dict[str, float]
    curves: dict[str, Curve]
    settings: dict[str, Any]
    environment: dict[str, Any]
    steps: int | None
    parameters: int | None
    seconds: float | None


def compared_run(run: Path, config: Mapping[str, Any], curves: dict[str, Curve]) -> ComparedRun:
    """Read what there is in a run's folder.

    Args:
        run: The folder.
        config: Its config.
        curves: Its history.
    """
    chosen = config.get("checkpoint")
    chosen = chosen if isinstance(chosen, dict) else {}
    monitor = str(chosen.get("monitor") or _MONITOR[0]), str(chosen.get("mode") or _MONITOR[1])
    last = max((curve.steps[-1] for curve in curves.values()), default=None)
    return ComparedRun(
        name=str(run),
        monitor=monitor,
        metrics=_metrics(curves, monitor),
        curves=curves,
        settings=flat_settings(redacted_values(dict(config))),
        environment=_environment(run / "env.json"),
        steps=None if last is None else last + 1,
        parameters=_parameters(run / "student" / "model.safetensors"),
        seconds=_seconds(run),
    )


def _metrics(curves: Mapping[str, Curve], monitor: tuple[str, str]) -> dict[str, float]:
    """The values of validation that belong to the best checkpoint, and the last ones of the test."""
    chosen = curves.get(monitor[0])
    best: int | None = None
    if chosen is not None:
        pick = min if monitor[1] == "min" else max
        at = pick(range(len(chosen.values)), key=chosen.values.__getitem__)
        best = chosen.steps[at]
    found = {}
    for name, curve in curves.items():
        if name.startswith("test/"):
            found[name] = curve.values[-1]
        elif name.startswith("val/"):
            by_step = dict(zip(curve.steps, curve.values, strict=True))
            if best is None or best in by_step:
                found[name] = curve.values[-1] if best is None else by_step[best]
    return dict(
        sorted(found.items(), key=lambda item: (item[0] != monitor[0], item[0].startswith("val/"), item[0]))
    )


def _environment(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    kept = {key: value for key, value in found.items() if key not in _NOT_COMPARED}
    if isinstance(kept.get("command"), list):
        kept["command"] = " ".join(map(str, kept["command"]))
    return flat_settings(redacted_values(kept)) if kept else {}


def _parameters(path: Path) -> int | None:
    """Numbers in a file of tensors, by its header alone: a length of 8 bytes, then JSON."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _LARGEST)))
        return sum(prod(map(int, t["shape"])) for name, t in header.items() if name != "__metadata__")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _seconds(run: Path) -> float | None:
    start, end = run / "env.json", run / "checkpoints" / "last.ckpt"
    try:
        if "before" in json.loads(start.read_text(encoding="utf-8")):
            return None  # a run that was resumed: its first parts are not known
        seconds = end.stat().st_mtime - start.stat().st_mtime
    except (OSError, ValueError, TypeError):
        return None
    return seconds if seconds > 0 else None
