"""Classes with constructors of every kind, for `make`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

if TYPE_CHECKING:
    from fractions import Fraction


class Colour(Enum):
    """A choice."""

    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Mask:
    """Plain values together."""

    share: float = 0.5


class Part(nn.Module):
    """Keeps what it is given."""

    def __init__(
        self,
        count: int = 1,
        share: float = 0.0,
        name: str | None = None,
        place: Path | None = None,
        colour: Colour = Colour.RED,
        kind: Literal["a", "b"] = "a",
        sizes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.told = {k: v for k, v in locals().items() if k not in ("self", "__class__")}


class Holder(Part):
    """Passes arguments on, and holds other parts."""

    def __init__(
        self,
        part: Part | None = None,
        parts: dict[str, Part] | None = None,
        several: Sequence[nn.Module] = (),
        make_part: Callable[[int], Part] = Part,
        act: Callable[[Any], Any] = abs,
        mask: Mask | None = None,
        anything: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        own = {k: v for k, v in locals().items() if k not in ("self", "__class__", "options")}
        self.told = {**self.told, **own}


class Unknown(Part):
    """Its types are not all there when it runs."""

    def __init__(self, half: Fraction | None = None, layers: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.told = {"half": half, "layers": layers}


def made_part(count: int) -> Part:
    """A part, by a function."""
    return Part(count)


def untold(count: int):  # type: ignore[no-untyped-def]
    """A part, though it does not say so."""
    return Part(count)
