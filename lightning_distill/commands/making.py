"""Making one part of a config that `fit` would accept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonargparse

from lightning_distill.errors import ConfigError, DistillError
from lightning_distill.security.allowed import refusal, restrict_imports


def make(kind: type, key: str, spec: Mapping[str, Any]) -> Any:
    """An instance from `class_path` and `init_args`.

    Args:
        kind: Base class.
        key: Where it stands in the config.
        spec: With full class paths.

    Raises:
        DistillError: Whatever keeps it from being made.
    """
    restrict_imports()
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, key, fail_untyped=False)
    try:
        return getattr(parser.instantiate(parser.parse_object({key: spec})), key)
    except Exception as error:  # a constructor may raise anything; parsers wrap it
        raise own_mistake(error, key) from error


def own_mistake(error: BaseException, key: str) -> DistillError:
    """Our own error where there is one behind it; parsers wrap what a constructor raises.

    Args:
        error: What was raised.
        key: Where it stands in the config.
    """
    refused = refusal(error, key)
    if refused is not None:
        return refused
    cause: BaseException | None = error
    first = error
    while cause is not None:
        if isinstance(cause, DistillError):
            return cause
        first, cause = cause, cause.__cause__ or cause.__context__
    return ConfigError(
        where=key,
        found=f"{type(first).__name__}: {first}",
        expected="settings that it can be made with",
        fix="correct the setting that the message names",
    )
