"""A config as a plain value: read, and looked through for classes of packages that it may not name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from lightning_distill.cli.paragraphs import Paragraphs
from lightning_distill.security.allowed import allowed, is_allowed

SPEC: Final = ("class_path", "init_args", "dict_kwargs")
"""Keys that name a class and its arguments."""


def content(file: Path, words: Sequence[str]) -> Any:
    """What a file holds; None where that is left to the parser.

    Args:
        file: YAML or JSON.
        words: The command line.

    Raises:
        ConfigError: If it is no YAML, or YAML that is not read; names the line.
    """
    import yaml  # type: ignore[import-untyped]

    from lightning_distill.security.safe_yaml import load_yaml

    try:
        return load_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        if mark is None:
            return None
        raise Paragraphs(words).no_yaml(error.problem, mark.line + 1) from error
    except ValueError:  # a number or a date that is none: the parser has its own rules for them
        return None


def strange_keys(keys: Iterable[str]) -> list[str]:
    """Keys beside class_path that do not belong there.

    Args:
        keys: All keys of a mapping.

    >>> strange_keys(["class_path", "init_arg"])
    ['init_arg']
    """
    keys = list(keys)
    return [key for key in keys if key not in SPEC] if "class_path" in keys else []


def beside_class_paths(value: Any) -> Iterator[str]:
    """Such keys in all of a config.

    Args:
        value: What a file holds.
    """
    if isinstance(value, dict):
        yield from strange_keys(key for key in value if isinstance(key, str))
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from beside_class_paths(item)


def check_packages(config: Any, words: Sequence[str]) -> None:
    """Every class with its full path must be of a package that a config may name, wherever it stands.

    Args:
        config: What a file holds.
        words: The command line.

    Raises:
        ConfigError: Names the first one that is not.
    """
    _check(config, words, allowed(), ())


def _check(value: Any, words: Sequence[str], names: Sequence[str], path: tuple[str, ...]) -> None:
    if isinstance(value, list):
        for item in value:
            _check(item, words, names, path)
    elif isinstance(value, dict):
        given = value.get("class_path")
        if isinstance(given, str) and "." in given and not is_allowed(given, names):
            raise Paragraphs(words, path).not_allowed(given, names)
        for key, item in value.items():
            _check(item, words, names, path if key == "init_args" else (*path, str(key)))
