"""What was found, as lines of a config and as JSON."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from lightning_distill.commands.find_clip.own import clip_keys, in_guards
from lightning_distill.commands.find_clip.table import remarks
from lightning_distill.range_finding.places import NEVER, Place, rounded
from lightning_distill.range_finding.quantiles import LEVELS

if TYPE_CHECKING:
    from lightning_distill.range_finding.finder import ClipRangeResult

OPTIMIZER = ("model", "init_args", "optimizer")


def rate_keys(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the learning rate stands in a config; a `GroupedOptimizer` has an optimizer inside."""
    optimizer = (config["model"].get("init_args") or {}).get("optimizer")
    inner = optimizer.get("init_args") or {} if isinstance(optimizer, Mapping) else {}
    nested = ("init_args", "optimizer") if "optimizer" in inner else ()
    return (*OPTIMIZER, *nested, "init_args", "lr")


def optimizer_class(config: Mapping[str, Any]) -> str | None:
    """The optimizer's class, where a config does not write out its settings; else None."""
    optimizer = (config["model"].get("init_args") or {}).get("optimizer")
    return None if isinstance(optimizer, Mapping) else str(optimizer or "torch.optim.AdamW")


def chosen_lines(config: Mapping[str, Any], result: ClipRangeResult, place: Place) -> str:
    """The lines to change, as YAML; where modalities differ much, other lines that were not tried.

    Args:
        config: All keys of `fit`.
        result: What was found.
        place: Of the range.
    """
    lines: dict[str, Any] = {}
    chosen = result.chosen
    _put_choice(lines, config, result, place)
    text = _yaml(lines)
    if chosen.choice.epsilon is None and clip_keys(config, place) != place.keys:
        text += f"# A range of {NEVER:g} stands for no clip; the guard stays.\n"
    apart = place.apart(chosen.choice.epsilon, result.quantiles)
    if apart is not None:
        other: dict[str, Any] = {}
        put(other, place.keys, in_guards(config, place, apart))
        text += "\n# Modalities differ in their medians. A range for each at the same quantile (not tried):\n"
        text += "".join(f"# {line}\n" for line in _yaml(other).splitlines())
    return text


def with_choice(config: Mapping[str, Any], result: ClipRangeResult, place: Place) -> str:
    """The whole config with what was chosen, as YAML.

    Args:
        config: All keys of `fit`.
        result: What was found.
        place: Of the range.
    """
    whole = copy.deepcopy(dict(config))
    _put_choice(whole, config, result, place)
    return _yaml(whole)


def _put_choice(
    tree: dict[str, Any], config: Mapping[str, Any], result: ClipRangeResult, place: Place
) -> None:
    choice = result.chosen.choice
    put(tree, place.keys, in_guards(config, place, place.spec(choice.epsilon)))
    if choice.rate != 1:
        kind = optimizer_class(config)
        if kind is not None:
            put(tree, OPTIMIZER, {"class_path": kind, "init_args": {}})
        put(tree, rate_keys(config), rounded(result.chosen.learning_rate))


def summary_of(result: ClipRangeResult, place: Place) -> dict[str, Any]:
    """All that was found, for JSON.

    Args:
        result: What was found.
        place: Of the range.
    """
    return {
        "what": place.letter,
        "goal": asdict(result.goal),
        "levels": list(LEVELS),
        "quantiles": {name: asdict(q) for name, q in result.quantiles.items()},
        "trials": [asdict(trial) for trial in result.trials],
        "chosen": asdict(result.chosen),
        "untrained": result.untrained,
        "plateaus": [asdict(plateau) for plateau in result.plateaus],
        "remarks": list(remarks(result)),
    }


def put(tree: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    """Set a value deep inside, making what leads there.

    >>> tree = {"a": {"b": 1}}
    >>> put(tree, ("a", "c", "d"), 2); tree
    {'a': {'b': 1, 'c': {'d': 2}}}
    """
    *path, last = keys
    for key in path:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = value


def _yaml(tree: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True))
