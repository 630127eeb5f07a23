"""Where a student's knowledge comes from: its teacher, and the teacher's teachers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import safetensors

from lightning_distill.errors import CheckpointError
from lightning_distill.security.safe_yaml import load_yaml
from lightning_distill.shipping.machine_paths import of_this_machine
from lightning_distill.student_config import WEIGHTS, read_config

_NAMED: Final = ("model", "model_name", "folder", "weights", "checkpoint", "path")
"""Settings that tell which teacher it is."""
_HUB: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_OF_HUB: Final = ("TransformersTeacher", "TransformersTextEncoder")
_DEEPEST: Final = 8


def lineage(teacher: Any, level: int = 0) -> Iterator[tuple[int, str]]:
    """A teacher and all it is made from, the nearest first.

    Args:
        teacher: `class_path` and `init_args`, as in a run's config, without secrets.
        level: At which it stands.

    Yields:
        How many steps away, and a sentence without its full stop.

    >>> spec = {"class_path": "a.HalfPrecisionTeacher", "init_args": {
    ...     "teacher": {"class_path": "a.TimmTeacher", "init_args": {"model_name": "resnet50"}}}}
    >>> list(lineage(spec))
    [(0, 'HalfPrecisionTeacher'), (1, 'TimmTeacher (model_name resnet50)')]
    """
    if not _is_spec(teacher) or level > _DEEPEST:
        return
    name, given = teacher["class_path"].rpartition(".")[2], teacher.get("init_args") or {}
    if name == "load_student" and isinstance(given.get("folder"), str):
        yield from _saved(Path(given["folder"]), level)
        return
    told = [f"{key} {shown(given[key])}" for key in _NAMED if isinstance(given.get(key), str)]
    yield level, f"{name} ({', '.join(told)})" if told else name
    for value in given.values():
        for part in value.values() if isinstance(value, dict) and not _is_spec(value) else [value]:
            yield from lineage(part, level + 1)


def shown(path: str) -> str:
    """A path without the folders of this machine: its last two parts; anything else as it is.

    >>> shown("/home/me/runs/teacher/student"), shown("bert-base-uncased")
    ('teacher/student', 'bert-base-uncased')
    """
    return "/".join(Path(path).parts[-2:]) if of_this_machine(path) else path


def _saved(folder: Path, level: int) -> Iterator[tuple[int, str]]:
    where = shown(str(folder))
    try:
        model = read_config(folder)["model"].get("init_args") or {}
        with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
            count = sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (CheckpointError, safetensors.SafetensorError, OSError):
        yield level, f"a saved model, {where}, which was not there any more when this was written"
        return
    parts = [f"{m} by {_name(spec)}" for m, spec in (model.get("encoders") or {}).items()]
    fused = f", fused by {_name(model['fusion'])}" if model.get("fusion") and len(parts) > 1 else ""
    yield level, f"a saved model, {where}: {', '.join(parts)}{fused}; {count:,} parameters and buffers"
    try:
        config = load_yaml((folder.parent / "config.yaml").read_text(encoding="utf-8"))
        yield from lineage(config["model"]["init_args"].get("teacher"), level + 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # it is no run's, or not told


def _name(spec: Any) -> str:
    return str(spec["class_path"] if _is_spec(spec) else spec).rpartition(".")[2]


def _is_spec(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("class_path"), str)


def hub_names(spec: Any) -> Iterator[str]:
    """Models of the Hugging Face hub whose weights are named anywhere in a part of a config.

    >>> list(hub_names({"class_path": "a.TimmImageEncoder", "init_args": {"model_name": "hf-hub:a/b"}}))
    ['a/b']
    """
    if isinstance(spec, list):
        for item in spec:
            yield from hub_names(item)
    if not isinstance(spec, Mapping):
        return
    given = spec.get("init_args") or {}
    if _is_spec(spec) and isinstance(given, dict) and given.get("pretrained") is not False:
        for key in ("model", "model_name"):
            value = given.get(key)
            if not isinstance(value, str):
                continue
            of_hub = _name(spec) in _OF_HUB and not Path(value).exists()
            name = value.removeprefix("hf-hub:")
            if (of_hub or name != value) and _HUB.fullmatch(name):
                yield name
    for item in spec.values():
        yield from hub_names(item)
