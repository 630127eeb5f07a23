"""The search for the range of the fused feature, with what a search for that of the gradients chose."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_distill.commands.find_clip.lines import OPTIMIZER, optimizer_class, rate_keys
from lightning_distill.commands.find_clip.own import in_guards
from lightning_distill.range_finding.places import Place, rounded

if TYPE_CHECKING:
    from lightning_distill.commands.find_clip import Options
    from lightning_distill.range_finding.finder import ClipRangeResult


def next_line(
    config: Mapping[str, Any], words: Sequence[str], result: ClipRangeResult, place: Place, options: Options
) -> str:
    """A line for the shell: the config that was written, else that of the line with what was chosen.

    Args:
        config: All keys of `fit`.
        words: Of the command line, after `fit`, that it was read from.
        result: What was found.
        place: Of its range.
        options: Of the search that is done.
    """
    if options.out is not None:
        line = ["--config", str(options.out / "config.yaml")]
    else:
        line = [*words, *_chosen(config, result, place)]
    line = ["lightning-distill", "find-clip", *line, "--feature", "--trials", str(options.trials)]
    if options.steps is not None:
        line += ["--steps", str(options.steps)]
    if options.out is not None:
        line += ["--out", str(options.out / "feature")]
    return shlex.join(line)


def _chosen(config: Mapping[str, Any], result: ClipRangeResult, place: Place) -> list[str]:
    choice = result.chosen.choice
    spec = in_guards(config, place, place.spec(choice.epsilon))
    words = [f"--{'.'.join(place.keys)}={json.dumps(spec)}"]
    if choice.rate != 1:
        kind = optimizer_class(config)
        words += [] if kind is None else [f"--{'.'.join(OPTIMIZER)}={kind}"]
        words.append(f"--{'.'.join(rate_keys(config))}={rounded(result.chosen.learning_rate)}")
    return words
