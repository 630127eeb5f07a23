"""Settings of a command that follow from others."""

from __future__ import annotations

from typing import Any, Final

from jsonargparse import Namespace
from lightning.pytorch.plugins import CheckpointIO

from lightning_distill.checkpoints import VerifiedCheckpointIO
from lightning_distill.cli import names
from lightning_distill.errors import ConfigError
from lightning_distill.teachers import CachedTeacher

MONITOR: Final = {"monitor": "val/accuracy", "mode": "max"}
"""What is monitored where nobody says otherwise."""


def with_verified_checkpoints(given: Any) -> list[Any]:
    """The Trainer's plugins, with ours for checkpoints unless the user has one.

    Args:
        given: `trainer.plugins`: several, one or none.
    """
    plugins = list(given) if isinstance(given, list | tuple) else [given] if given else []
    own = any(isinstance(plugin, CheckpointIO) for plugin in plugins)
    return plugins if own else [*plugins, VerifiedCheckpointIO()]


def follow_task(options: Namespace) -> None:
    """What is monitored by default is a metric of classification; other tasks have others."""
    task = (options.model.get("init_args") or {}).get("task")
    if not isinstance(task, Namespace):
        return
    metric, mode = names.load(task.class_path).monitor
    for part in (options.early_stopping, options.checkpoint):
        if {"monitor": part.monitor, "mode": part.mode} == MONITOR:
            part.monitor, part.mode = f"val/{metric}", mode


def use_cache(options: Namespace) -> None:
    """Put the teacher of the config into a CachedTeacher, unless it is one."""
    model = options.model.get("init_args") or Namespace()
    teacher = model.get("teacher")
    if not isinstance(teacher, Namespace):
        raise ConfigError(
            where="cache",
            found=f"{options.cache}, and a model without a teacher",
            expected="a teacher whose answers can be kept",
            fix="add model.init_args.teacher, or leave cache out",
        )
    path = f"{CachedTeacher.__module__}.{CachedTeacher.__qualname__}"
    if teacher.class_path != path:
        teacher = Namespace(class_path=path, init_args=Namespace(teacher=teacher))
        model.teacher = teacher
    if options.cache == "repair":
        teacher.init_args.on_damage = "repair"
