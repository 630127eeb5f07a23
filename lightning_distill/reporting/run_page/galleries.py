"""Samples on which teacher and student agree or not, as they look, read and sound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from lightning_distill.reporting.run_page.media import CHARACTERS, Medium, medium
from lightning_distill.reporting.web import plain

if TYPE_CHECKING:
    from lightning_distill.data import MultimodalDataModule
    from lightning_distill.explanation.agreement import Agreement, Example

_AROUND = 2500
"""Bytes of markup around the media of a sample, at most."""


class Said(NamedTuple):
    """What a model said of a sample.

    Attributes:
        who: student or teacher.
        what: Name of the class.
        confidence: Its probability.
        right: Whether it is the sample's class.
    """

    who: str
    what: str
    confidence: float
    right: bool


@dataclass(frozen=True)
class Card:
    """One sample.

    Attributes:
        name: Where it comes from.
        label: Name of its class.
        said: By both.
        media: What it consists of.
    """

    name: str
    label: str
    said: tuple[Said, ...]
    media: tuple[Medium, ...]

    @property
    def size(self) -> int:
        """Bytes on the page, at most."""
        return _AROUND + sum(
            6 * len(m.content) if m.kind in ("text", "words") else len(m.content) for m in self.media
        )


@dataclass
class Gallery:
    """Samples of one kind.

    Attributes:
        kind: As in `Agreement.counts`.
        count: How many there are of it.
        cards: Those that are shown.
    """

    kind: str
    count: int
    cards: list[Card] = field(default_factory=list)


def galleries(
    found: Agreement, data: MultimodalDataModule, classes: tuple[str, ...], budget: int
) -> list[Gallery]:
    """A gallery a kind, filled in turns until no more bytes are left.

    Args:
        found: The examples.
        data: Where they are loaded from.
        classes: Names.
        budget: Bytes for all samples together.
    """
    made = {kind: Gallery(kind, count) for kind, count in found.counts.items()}
    for kind, example in _in_turns(found.examples):
        card = _card(example, data, classes)
        if card.size > budget:
            break
        budget -= card.size
        made.setdefault(kind, Gallery(kind, found.counts.get(kind, 0))).cards.append(card)
    return list(made.values())


def _in_turns(examples: dict[str, tuple[Example, ...]]) -> Iterator[tuple[str, Example]]:
    for i in range(max((len(own) for own in examples.values()), default=0)):
        yield from ((kind, own[i]) for kind, own in examples.items() if i < len(own))


def _card(example: Example, data: MultimodalDataModule, classes: tuple[str, ...]) -> Card:
    source = data.indexed
    known = [m for m in data.read_modalities if m in source.samples.present]
    said = (
        _said("student", example.student, example.student_confidence, example, classes),
        _said("teacher", example.teacher, example.teacher_confidence, example, classes),
    )
    media = tuple(medium(source, m, example.row) for m in known)
    return Card(plain(source.describe(example.row), CHARACTERS), _name(example.target, classes), said, media)


def _said(who: str, what: int, confidence: float, example: Example, classes: tuple[str, ...]) -> Said:
    return Said(who, _name(what, classes), confidence, what == example.target)


def _name(index: int, classes: tuple[str, ...]) -> str:
    return plain(classes[index]) if 0 <= index < len(classes) else f"class {index}"
