"""The fusion heads that `fusion.py`, `fusion_synthetic.py` and `fusion_cost.py` compare: all there are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from lightning_distill import fusion
from lightning_distill.fusion import FusionHead

MakeHead = Callable[[dict[str, int]], FusionHead]


def heads(inner: type[FusionHead]) -> dict[str, MakeHead]:
    """Name -> what makes the head, with its default settings.

    Args:
        inner: What a head is put around that takes another.
    """
    found: dict[str, MakeHead] = {}
    for name in fusion.__all__:
        thing = getattr(fusion, name)
        if inspect.isclass(thing) and issubclass(thing, FusionHead) and not inspect.isabstract(thing):
            takes_another = "fusion" in inspect.signature(thing).parameters
            found[name] = partial(thing, fusion=inner) if takes_another else thing
    return found


def reads_tokens(make: MakeHead) -> bool:
    """Whether the head reads tokens."""
    return make({"any": 8}).reads_tokens
