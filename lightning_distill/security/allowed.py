"""What may be imported because a config, or a saved model, names it.

A class that is named is imported, and made with arguments from the same file: whoever writes the file
chooses which code runs. So only what a training run is made of may be named. The user can add packages, by
hand or in the environment, never in the file itself.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from lightning_distill.errors import ConfigError

ALLOWED: Final = (
    "lightning_distill",
    "torch.nn",  # layers
    "torch.optim",  # optimizers and their schedules
    "lightning.pytorch.accelerators",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "lightning.fabric.plugins",  # where some of those plugins are defined
)
"""Packages and modules whose classes a config may name."""
DENIED: Final = (
    "lightning_distill.__main__",
    "lightning_distill.cli",  # commands, which are no part of a model
    "lightning_distill.commands",
    "lightning.pytorch.plugins.io",  # other ways to read a checkpoint, without its checks
    "lightning.fabric.plugins.io",
)
"""Parts of them that it may not."""
VARIABLE: Final = "LIGHTNING_DISTILL_ALLOW"
"""Environment variable with more of them, separated by commas."""


def allowed() -> tuple[str, ...]:
    """`ALLOWED`, and what the environment adds.

    Raises:
        ConfigError: If the environment names what is no package.
    """
    return tuple(dict.fromkeys((*ALLOWED, *package_names(os.environ.get(VARIABLE, ""), VARIABLE))))


def package_names(text: str, where: str) -> list[str]:
    """Names of packages, separated by commas.

    Args:
        text: The names.
        where: Where they stand, for messages.

    Raises:
        ConfigError: If one is no name of a package.

    >>> package_names("mine,other.models", "--allow")
    ['mine', 'other.models']
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        # The parser must not be led to its own settings.
        if not all(part.isidentifier() for part in name.split(".")) or name.split(".")[0] == "jsonargparse":
            raise ConfigError(
                where=where,
                found=repr(name),
                expected="names of packages or modules, such as mine or mine.models, separated by commas",
                fix="correct the name",
            )
    return names


def is_allowed(path: str, names: Sequence[str] | None = None) -> bool:
    """Whether a config may name this; of entries for a package and for a part of it, that of the part counts.

    Args:
        path: Import path.
        names: What is allowed; None for what is now.

    >>> [is_allowed(path, ALLOWED) for path in ("torch.nn.ReLU", "torch.load", "lightning_distill.cli.x")]
    [True, False, False]
    """
    names = allowed() if names is None else names
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        entry = ".".join(parts[:count])
        if entry in names:
            return True
        if entry in DENIED:
            return False
    return False


def refusal(error: BaseException, where: object) -> ConfigError | None:
    """What was refused, where that is behind an error of the parser.

    Args:
        error: What the parser raised.
        where: Where it was named, for messages.
    """
    cause: BaseException | None = error
    while cause is not None:
        match = re.search(r"Importing '(.+?)' is not allowed", str(cause))
        if match is not None:
            return ConfigError(
                where=where,
                found=repr(match[1]),
                expected=f"a class of the packages that a config may name: {', '.join(allowed())}",
                fix=f"if you trust it, add --allow {match[1].partition('.')[0]}: "
                "what a config names is imported and run",
            )
        cause = cause.__cause__ or cause.__context__
    return None


def restrict_imports() -> None:
    """From now on the parser refuses what is not allowed before it imports it, and reads YAML with care."""
    _set(_table(allowed()))


@contextmanager
def kept() -> Iterator[None]:
    """Give the parser back after the block as it was before: a program may have other uses for it.

    What is allowed in the block, as by `--allow`, is not allowed after it.
    """
    before = _state() if "jsonargparse" in sys.modules else None
    added = os.environ.get(VARIABLE)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if added is not None:
            os.environ[VARIABLE] = added
        if "jsonargparse" in sys.modules:
            _restore(before or _as_delivered())


def narrowed(packages: Iterable[str]) -> tuple[str, ...]:
    """Of these packages, what `restrict_imports` left: all of it where that was not called.

    Args:
        packages: Names of packages or modules.
    """
    if "jsonargparse" not in sys.modules:
        return tuple(packages)  # nobody has restricted it
    around: dict[str, bool] = _parser()[0]["import_path_verdicts"]
    if "*" not in around:
        return tuple(packages)
    names = [name for name, good in around.items() if good]
    found = [
        name
        for package in packages
        for name in (package, *names)
        if (name == package and is_allowed(package, names)) or name.startswith(f"{package}.")
    ]
    return tuple(dict.fromkeys(found))


def _table(names: Sequence[str]) -> dict[str, bool]:
    return {"*": False, **dict.fromkeys(DENIED, False), **dict.fromkeys(names, True)}


def _set(table: dict[str, bool]) -> None:
    from jsonargparse._loaders_dumpers import yaml_load

    from lightning_distill.security.safe_yaml import check_yaml

    def checked(text: str) -> Any:
        check_yaml(text)
        return yaml_load(text)

    _restore((table, True, checked))


_State: TypeAlias = tuple[dict[str, bool], bool, Callable[[str], Any]]
"""What may be imported, whether that is enforced, and what reads YAML: all three of the whole process."""


def _state() -> _State:
    settings, loaders = _parser()
    return settings["import_path_verdicts"], settings["import_paths_enforced"], loaders["yaml"]


def _restore(state: _State) -> None:
    settings, loaders = _parser()
    settings["import_path_verdicts"], settings["import_paths_enforced"], loaders["yaml"] = state


def _as_delivered() -> _State:
    from jsonargparse._common import default_import_path_denylist
    from jsonargparse._loaders_dumpers import yaml_load

    return dict.fromkeys(default_import_path_denylist, False), False, yaml_load


def _parser() -> tuple[dict[str, Any], dict[str, Any]]:
    """Its settings and its readers: no public function takes an entry back."""
    from jsonargparse._common import parsing_settings
    from jsonargparse._loaders_dumpers import loaders

    return parsing_settings, loaders
