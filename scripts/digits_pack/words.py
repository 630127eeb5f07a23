"""Number words 0 to 9 of every language, evaluated from the spell-out rules of Unicode CLDR."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Rules = Sequence[tuple[str, str]]
RuleSets = Mapping[str, Rules]
Word = tuple[int, str, str]

ROOT = "root"
"""The language-free rules, which only print digits."""

INVISIBLE = str.maketrans("", "", "\u00ad\u200b")
"""Soft hyphens and zero-width spaces: hints for line breaks, no part of a word."""

NOT_A_WORD = re.compile(r"[0-9#%$=<>←→\[\]]")
"""Digits or rule syntax that the evaluation left over."""

BROKEN_ZERO_ORDINALS = {"hr", "lt"}
"""Languages whose ordinal rules hang an ending on the finished noun for zero (``nulinisas``, ``nulaa``)."""


def read_words(package: Path) -> list[Word]:
    """Evaluate every public spell-out rule of the npm package ``cldr-rbnf`` at 0 to 9.

    Regional and script variants (``de-CH``, ``sr-Latn``) count as their language.

    Args:
        package: Folder into which the package was unpacked.

    Returns:
        Sorted, distinct (digit, language, text).
    """
    words: set[Word] = set()
    for path in sorted((package / "rbnf").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))["rbnf"]
        language = content["identity"]["language"]
        if language != ROOT:
            words.update(_words_of(language, content["rbnf"].get("SpelloutRules", {})))
    return sorted(words)


def _words_of(language: str, rule_sets: RuleSets) -> Iterator[Word]:
    """Evaluate the public rule sets (one leading ``%``) of one language."""
    for name in rule_sets:
        if not name.startswith("%") or name.startswith("%%"):
            continue
        for digit in range(10):
            if digit == 0 and language in BROKEN_ZERO_ORDINALS and "cardinal" not in name:
                continue
            text = spell(rule_sets, name, digit)
            if text and not NOT_A_WORD.search(text):
                yield digit, language, text


def spell(rule_sets: RuleSets, name: str, digit: int) -> str | None:
    """Apply one rule set to one digit.

    Below ten a spell-out rule is plain text with, at most, references ``=%other-set=``; a leading
    apostrophe only protects a space.

    Args:
        rule_sets: Every rule set of the language, by name.
        name: The rule set to apply.
        digit: The number to spell, 0 to 9.

    Returns:
        The text, or None where the rules print the digit itself or have no rule for it.

    Examples:
        >>> spell({"%a": [["0", "nul;"], ["1", "=%%b=ste;"]], "%%b": [["0", "een;"]]}, "%a", 1)
        'eenste'
    """
    bodies = [body for base, body in rule_sets.get(name, ()) if base.isdigit() and int(base) <= digit]
    if not bodies:
        return None
    body = bodies[-1].removesuffix(";").removeprefix("'")
    pieces: list[str] = []
    for position, piece in enumerate(body.split("=")):
        is_reference = position % 2 == 1
        text = spell(rule_sets, piece, digit) if is_reference else piece
        if text is None:
            return None
        pieces.append(text)
    return "".join(pieces).translate(INVISIBLE).strip()
