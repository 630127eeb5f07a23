"""The same search as a W&B sweep: every range of the ladder with every learning rate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from lightning_distill.commands.find_clip.lines import OPTIMIZER, optimizer_class, rate_keys
from lightning_distill.commands.find_clip.own import clip_keys, in_guards
from lightning_distill.range_finding.places import NEVER, Place, rounded
from lightning_distill.range_finding.search import STEP

if TYPE_CHECKING:
    from lightning_distill.range_finding.finder import ClipRangeResult


def sweep_file(
    config: Mapping[str, Any],
    given: Sequence[str],
    result: ClipRangeResult,
    place: Place,
    steps: int | None,
) -> str:
    """A file for `wandb sweep`, whose agents call `lightning-distill fit`.

    Args:
        config: All keys of `fit`.
        given: Words of the command line, after `fit`, that it was read from.
        result: Its ranges, and the learning rate to try others around.
        place: Of the range.
        steps: Length of a training; None is that of the config.
    """
    clip, rate = _option(clip_keys(config, place)), _option(rate_keys(config))
    center = result.chosen.learning_rate
    words = ["${program}", "fit", *given]
    words += [f"--{_option(place.keys)}={json.dumps(in_guards(config, place, place.spec(NEVER)))}"]
    kind = optimizer_class(config)
    words += [] if kind is None else [f"--{_option(OPTIMIZER)}={kind}"]
    if steps is not None:
        words += [f"--trainer.max_steps={steps}", "--trainer.max_epochs=-1"]
    ranges = [*(rounded(c.epsilon) for c in result.ladder.choices if c.epsilon is not None), NEVER]
    sweep = {
        "program": "lightning-distill",
        "method": "grid",
        "metric": {
            "name": result.goal.monitor,
            "goal": "maximize" if result.goal.mode == "max" else "minimize",
        },
        "parameters": {
            f"{clip}.init_args.epsilon": {"values": ranges},
            rate: {"values": [rounded(center * factor) for factor in (1 / STEP, 1.0, STEP)]},
        },
        "command": [*words, "${args}"],
    }
    return (
        "# wandb sweep THIS_FILE, then wandb agent SWEEP\n"
        f"# A range of {NEVER:g} stands for no clip. Runs log to Weights & Biases as fit does.\n"
        + str(yaml.safe_dump(sweep, sort_keys=False))
    )


def _option(keys: Sequence[str]) -> str:
    """Keys of a config as the command line names them.

    >>> _option(("model", "init_args", "student", "init_args", "feature_clip"))
    'model.init_args.student.init_args.feature_clip'
    """
    return ".".join(keys)
