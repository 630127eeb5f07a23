"""In what two configs differ."""

from __future__ import annotations

from pathlib import Path

from lightning_distill.flat_settings import flat_settings
from lightning_distill.security.safe_yaml import load_yaml
from lightning_distill.security.secrets import redacted_values


def differences(old: Path, new: str) -> list[str]:
    """Settings of model, data and trainer in which two configs differ, one line each."""
    before, after = (
        flat_settings(
            {
                k: v
                for k, v in redacted_values(load_yaml(text) or {}).items()
                if k in ("model", "data", "trainer")
            }
        )
        for text in (old.read_text(encoding="utf-8"), new)
    )
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]
