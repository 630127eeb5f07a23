"""`--allow PACKAGE`: which packages a config may name, besides those that every config may."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lightning_distill.errors import ConfigError
from lightning_distill.security.allowed import ALLOWED as ALLOWED
from lightning_distill.security.allowed import VARIABLE as VARIABLE
from lightning_distill.security.allowed import package_names
from lightning_distill.security.allowed import restrict_imports as restrict_imports

_OPTION = "--allow"


def take_allowed(words: Sequence[str]) -> list[str]:
    """The command line without `--allow PACKAGE`.

    What it names is allowed from now on, here and in processes that this one starts.

    Args:
        words: The command line; the option may stand anywhere, several times, with commas.

    Raises:
        ConfigError: If what it names is no package, or it names none.

    >>> take_allowed(["fit", "--config", "a.yaml"])
    ['fit', '--config', 'a.yaml']
    """
    left, names, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if option != _OPTION:
            left.append(word)
            continue
        given = value if equals else rest.pop(0) if rest else ""
        found = package_names(given, f"command line, {_OPTION}")
        if not found:
            raise ConfigError(
                where=f"command line, {_OPTION}",
                found="no package",
                expected="the name of a package that configs may name too, such as mine",
                fix=f"write it after the option: {_OPTION} mine",
            )
        names += found
    if names:
        # In the environment, where processes that a strategy starts find it.
        before = package_names(os.environ.get(VARIABLE, ""), VARIABLE)
        os.environ[VARIABLE] = ",".join(dict.fromkeys([*before, *names]))
    return left
