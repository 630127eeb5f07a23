"""Whether robustness can be measured: settings, and whether model and data fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from lightning_distill.data import MultimodalDataModule
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.model import MultimodalModel
from lightning_distill.robustness.base import Corruption

SPLITS = ("val", "test")


def check_levels(levels: Sequence[float], where: str) -> None:
    """Refuse levels that do not rise from 0 to at most 1.

    Args:
        levels: As given.
        where: For the message.

    Raises:
        ConfigError: If they are others.
    """
    rising = all(a < b for a, b in pairwise(levels))
    if len(levels) < 2 or levels[0] != 0 or not rising or not levels[-1] <= 1:
        raise ConfigError(
            where=where,
            found=" ".join(f"{level:g}" for level in levels) or "none",
            expected="at least two levels, rising from 0 (as it is) to at most 1",
            fix="give levels such as 0 0.25 0.5 0.75 1",
        )


def check_settings(split: str, ways: Sequence[Corruption], levels: Sequence[float]) -> None:
    """Refuse an unknown split, corruptions of one name, none at all, and levels that do not rise.

    Raises:
        ConfigError: Names the first that is wrong.
    """
    if split not in SPLITS:
        raise ConfigError(
            where="robustness_curves, split",
            found=repr(split),
            expected="val or test" + nearest(split, SPLITS),
            fix="measure on one of these",
        )
    twice = [name for name, count in Counter(way.name for way in ways).items() if count > 1]
    if twice or not ways:
        raise ConfigError(
            where="robustness_curves, corruptions",
            found=f"two called {twice[0]!r}" if twice else "none",
            expected="one or more, each of another name",
            fix="call robustness_curves once for each of them" if twice else "leave it out to take all",
        )
    check_levels(levels, "robustness_curves, levels")


def check_fit(
    model: nn.Module, data: MultimodalDataModule, reads: Sequence[str], worse: Sequence[str]
) -> None:
    """The data must have what the model reads and what is to get worse, and the model's classes.

    Args:
        model: Any.
        data: Where batches come from.
        reads: Modalities the model reads.
        worse: Modalities to make worse.

    Raises:
        ConfigError: Names what is missing.
    """
    missing = [m for m in reads if m not in data.processors]
    if missing:
        raise ConfigError(
            where="robustness_curves",
            found=f"data of {list(data.processors)}",
            expected=f"data of {list(reads)}, which the model reads",
            fix=f"give the DataModule a processor for {missing[0]!r}{nearest(missing[0], data.processors)}",
        )
    unknown = [m for m in worse if m not in reads]
    if unknown or not worse:
        raise ConfigError(
            where="robustness_curves, modalities",
            found=f"{unknown[0]!r}{nearest(unknown[0], reads)}" if unknown else "none",
            expected=f"some of {', '.join(reads)}, which the model reads",
            fix="leave it out to take all of them",
        )
    if isinstance(model, MultimodalModel):
        _same_classes(model, data)


def _same_classes(model: MultimodalModel, data: MultimodalDataModule) -> None:
    known = model.classes or tuple(map(str, range(model.num_classes)))
    if len(known) != len(data.classes) or (model.classes is not None and known != tuple(data.classes)):
        raise ConfigError(
            where="robustness_curves, classes",
            found=f"data with {', '.join(data.classes)}",
            expected=f"{', '.join(known)}, as the model was trained on"
            if model.classes
            else f"{model.num_classes} of them, as the model has",
            fix="give the data source `classes` in the model's order",
        )
