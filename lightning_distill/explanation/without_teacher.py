"""A run's config without all that needs its teacher."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, Final

_OF_TEACHER: Final = ("teacher", "balancer")
"""Settings of the module that have no place without a teacher."""
_AGREEMENT: Final = frozenset({"val/agreement", "val/teacher_mae"})


def without_teacher(config: dict[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """The config of the same training on labels alone.

    The samples, their order and their random views stay as they are, and so do the other terms, with their
    weights. The task weighs 1. Where a metric of the teacher chooses the best epoch, the task's own loss
    does instead.

    Args:
        config: The full one of the run.
        gone: Names of the terms that compare with the teacher.

    Returns:
        Another full config.
    """
    from lightning_distill.terms import TASK, UNIMODAL  # it loads torch

    made = copy.deepcopy(config)
    module = made["model"]["init_args"]
    kept = {name: loss for name, loss in (module.get("losses") or {}).items() if name not in gone}
    weights = module.get("weights") or {}
    module.update(dict.fromkeys(_OF_TEACHER))
    module["losses"] = kept or None
    module["weights"] = {n: w for n, w in weights.items() if n in kept or n == UNIMODAL} or None
    without_other_views(made)
    never_logged = {f"val/{name}" for name in gone} | _AGREEMENT
    for part in ("early_stopping", "checkpoint"):
        if (made.get(part) or {}).get("monitor") in never_logged:
            made[part] |= {"monitor": f"val/{TASK}", "mode": "min"}
    if made.get("cache"):
        made["cache"] = None
    return made


def without_other_views(config: dict[str, Any]) -> None:
    """Leave out, in place, how a teacher sees what the student reads too: there is no such teacher any more.

    What only the teacher reads stays: the data of some modules must have those modalities.

    Args:
        config: A full one.
    """
    data = (config.get("data") or {}).get("init_args") or {}
    theirs, read = data.get("teacher_processors"), data.get("processors") or {}
    if theirs:
        data["teacher_processors"] = {m: spec for m, spec in theirs.items() if m not in read} or None
