"""What the config.json of a transformers model asks for, before anything is made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lightning_distill.errors import ConfigError

_SAFE: Final = ".safetensors"
_CHOICE: Final = re.compile(r"_?\w+_implementation(_internal)?")
"""Keys that choose code: for attention, for experts."""


def check_config(model: str, where: str) -> None:
    """Refuse a model that comes with code, or fetches some.

    Args:
        model: Hub name, or local folder.
        where: For messages.

    Raises:
        ConfigError: If its config.json names code of its own, or a kernel of a hub.
        OSError: If there is none.
    """
    import transformers

    local = Path(model).is_dir()
    config, _ = transformers.PreTrainedConfig.get_config_dict(model, local_files_only=local)
    if local:
        _check_index(Path(model), where)
    for key, value in _choices(config):
        raise ConfigError(
            where=f"{where}, {model}, config.json",
            found=f"{key} {value!r}, code from elsewhere",
            expected="a model of transformers itself, which needs no other code",
            fix="take another model; if this one is of a type that transformers knows, remove the key",
        )


def _check_index(folder: Path, where: str) -> None:
    """Parts of weights in several files are safetensors of the same folder; else a pickle might be read."""
    for index in folder.glob("*.index.json"):
        try:
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                where=f"{where}, {index}",
                found=f"no index of weights ({error!r})",
                expected="weight_map: name of a weight -> file in the same folder",
                fix="save the model again with model.save_pretrained(folder)",
            ) from error
        for part in parts:
            if Path(str(part)).name != part or (".safetensors" in index.name and Path(part).suffix != _SAFE):
                raise ConfigError(
                    where=f"{where}, {index}",
                    found=f"weights in {part!r}",
                    expected=f"files of the same folder that end in {_SAFE}",
                    fix="save the model again with model.save_pretrained(folder)",
                )


def _choices(config: Any) -> Iterator[tuple[str, Any]]:
    """Keys that name code, and what they name; parts of a model have a config each."""
    if isinstance(config, list):
        for item in config:
            yield from _choices(item)
    elif isinstance(config, dict):
        for key, value in config.items():
            fetched = _CHOICE.fullmatch(str(key)) and any("/" in name for name in _texts(value))
            if fetched or (key == "auto_map" and value):
                yield key, value
            else:
                yield from _choices(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
