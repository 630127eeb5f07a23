"""A student that has trained for too long."""

from __future__ import annotations

from lightning_distill.errors import printable
from lightning_distill.explanation.curves import Curve
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings.base import Finding
from lightning_distill.explanation.findings.chance import LEVEL, trend
from lightning_distill.explanation.findings.overlay import RunConfig, as_yaml, overlay


def overfit(facts: RunFacts) -> Finding | None:
    """After its best, `val/loss` rises while `train/loss` falls; both trends are hardly chance."""
    val, train = facts.curves.get("val/loss"), facts.curves.get("train/loss")
    if val is None or train is None:
        return None
    best = min(range(len(val.values)), key=val.values.__getitem__)
    after = val.values[best + 1 :]  # the best itself would be below all others by its choice
    rise, p_rise = trend(after)
    fall, p_fall = trend(_since(train, val.steps[best]))
    if rise <= 0 or fall >= 0 or max(p_rise, p_fall) > LEVEL:
        return None
    config = RunConfig(facts.config)
    evidence = (
        f"val/loss was lowest at step {val.steps[best]} with {val.values[best]:.4g} and ended at "
        f"{val.values[-1]:.4g}, rising over {len(after)} evaluations (p = {p_rise:.2g}), while train/loss "
        f"went on falling (p = {p_fall:.2g}). {_kept(facts, config)}"
    )
    return Finding("overfit", "The student overfits.", evidence, _change(config))


def _kept(facts: RunFacts, config: RunConfig) -> str:
    """Which student the run has kept, as far as its config and its curves tell."""
    monitor = config.at("checkpoint", "monitor")
    if not isinstance(monitor, str):
        return "Its config does not tell which epoch's student was kept."
    if monitor in facts.curves:
        return f"The student that was kept is that of the best {printable(monitor)}."
    return f"Nothing has logged {printable(monitor)}, so the student that was kept is the last epoch's."


def _since(curve: Curve, step: int) -> tuple[float, ...]:
    return tuple(v for s, v in zip(curve.steps, curve.values, strict=True) if s > step)


def _change(config: RunConfig) -> str:
    optimizer = config.at("model", "init_args", "optimizer")
    options = optimizer.get("init_args") if isinstance(optimizer, dict) else None
    decay = options.get("weight_decay") if isinstance(options, dict) else None
    if isinstance(options, dict) and isinstance(decay, int | float):
        options["weight_decay"] = float(f"{max(10 * decay, 0.01):.3g}")
        return overlay({"optimizer": optimizer}, "Ten times the weight decay.")
    patience = config.at("early_stopping", "patience")
    if isinstance(patience, int) and patience > 1:
        lines = {"early_stopping": {"patience": patience // 2}}
        return as_yaml(lines, "It stops earlier, which saves time and changes little else.")
    return ""
