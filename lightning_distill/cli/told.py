"""What may be told of an error: everything but the secrets that its command line and configs hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_distill.security.secrets import redacted, secrets_in


def without_secrets(text: str, words: Sequence[str]) -> str:
    """A paragraph or a traceback, fit to be printed.

    Args:
        text: It may quote what a class was given, under no name that says what it is.
        words: The command line.
    """
    return redacted(text, [*secrets_in(list(words)), *_of_configs(words)])


def _of_configs(words: Sequence[str]) -> Iterator[str]:
    import yaml  # type: ignore[import-untyped]

    from lightning_distill.security.safe_yaml import load_yaml

    for word in words:
        path = Path(word.partition("=")[2] if word.startswith("--") else word)
        try:
            if path.suffix in (".yaml", ".yml", ".json") and path.is_file():
                yield from secrets_in(load_yaml(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # the error that is told may be about just this file
