"""What a run's folder says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_distill.security.safe_yaml import load_yaml
from lightning_distill.security.secrets import redacted_values


def config_text(path: Path) -> str:
    """The config as `fit` has left it, and without secrets that somebody has written into it since.

    Args:
        path: The file.
    """
    plain = redacted_values(load_yaml(path.read_text(encoding="utf-8")))
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def environment(path: Path) -> dict[str, Any]:
    """What the run says of its machine and packages; nothing where that is not there.

    Args:
        path: The file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(redacted_values(found)) if isinstance(found, Mapping) else {}
