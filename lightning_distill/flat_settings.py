"""A config as dotted keys."""

from __future__ import annotations

from typing import Any


def flat_settings(value: Any, at: str = "") -> dict[str, Any]:
    """Every setting by its dotted key; lists and empty mappings are values.

    Args:
        value: Plain, of nested mappings.
        at: Key under which it stands.

    >>> flat_settings({"model": {"lr": 0.1, "sizes": [1, 2], "extra": {}}})
    {'model.lr': 0.1, 'model.sizes': [1, 2], 'model.extra': {}}
    """
    if isinstance(value, dict) and value:
        return {
            key: inner
            for name, item in value.items()
            for key, inner in flat_settings(item, f"{at}.{name}".lstrip(".")).items()
        }
    return {at: value}
