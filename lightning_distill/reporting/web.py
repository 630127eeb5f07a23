"""What all pages have in common: how templates are filled, and how foreign texts are made harmless."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final

from lightning_distill.reporting.formatting import decimals, duration, mean_and_error, percent, setting

if TYPE_CHECKING:
    from jinja2 import Environment

CHARACTERS: Final = 80
"""Of a name, after which it is cut."""


def page_environment() -> Environment:
    """Templates of this package, by their path in it; every value is escaped, and a missing one an error."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    here = files(__package__)
    page = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: here.joinpath(name).read_text(encoding="utf-8")),
    )
    page.filters |= {
        "percent": percent,
        "mean_and_error": mean_and_error,
        "decimals": decimals,
        "duration": duration,
        "setting": setting,
        "plain": plain,
        "points": points,
    }
    return page


def points(fraction: float) -> str:
    """A difference of fractions in percentage points.

    >>> points(0.1234), points(-0.0001)
    ('+12.3', '0.0')
    """
    value = round(100 * fraction, 1)
    return f"{value:+.1f}" if value else "0.0"


def plain(text: object, limit: int = CHARACTERS) -> str:
    r"""A foreign text that a page can hold: cut, and without what UTF-8 or HTML has no place for.

    Escaping is the template's work; so is `<bdi>`, which keeps writing directions inside.

    Args:
        text: A name, a label, a text of the data.
        limit: Characters.

    >>> plain("a\0b\ud800"), plain("abcdef", 4)
    ('a\\x00b\\ud800', 'abc…')
    """
    start = str(text)[: limit + 1]
    start = start if len(start) <= limit else start[: max(0, limit - 1)] + "…"
    return "".join(map(_shown, start))


def _shown(character: str) -> str:
    code = ord(character)
    # C0 and C1 controls; lone surrogates; those that are no characters at all.
    bad = code < 32 or 127 <= code < 160 or 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE
    return character.encode("unicode_escape").decode() if bad and character not in "\n\t" else character
