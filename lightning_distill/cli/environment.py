"""With what a run was made."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lightning_distill import __version__


def environment() -> dict[str, Any]:
    """Versions of Python, of this library, and of those it stands on."""
    packages = ("lightning", "torch", "transformers", "timm")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "lightning_distill": __version__,
        **{package: _version(package) for package in packages},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
