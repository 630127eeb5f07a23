"""One of several trainings that belong together: finished ones stay, an interrupted one goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_distill.cli.config_changes import differences
from lightning_distill.cli.run_folder import RunFolder
from lightning_distill.errors import ConfigError
from lightning_distill.security.safe_yaml import load_yaml
from lightning_distill.security.secrets import hidden_settings, redacted_values


def train_unless_there(folder: RunFolder, config: dict[str, Any], command: str, fix: str) -> None:
    """Make a run's student, as far as it is not there yet; its config stands beside the folder.

    Args:
        folder: Of the run.
        config: The full one.
        command: Who asks, for messages.
        fix: What to do where the folder holds a run of another config.

    Raises:
        ConfigError: If it does, or the training leaves no student.
    """
    from lightning_distill.cli import run
    from lightning_distill.reporting.atomic import write_atomically

    secrets, config = hidden_settings(config), redacted_values(config)
    file, text = folder.path.with_suffix(".yaml"), yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    changed = _changed(file, config) if file.is_file() and folder.path.is_dir() else []
    if changed:
        raise ConfigError(
            where=f"{command}, {folder}",
            found=f"a run of another config: {changed[0]}",
            expected="the config it was started with",
            fix=fix,
        )
    if folder.student.is_dir():
        return
    write_atomically(file, text)  # each process of a distributed run does, while others may read it
    going_on: list[str] = []
    if (folder.checkpoints / "last.ckpt").is_file():
        going_on = ["--resume", "auto"]
    elif folder.config.is_file():
        going_on = ["--overwrite"]
    given = [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in secrets.items()
    ]
    run("fit", ["fit", "--config", str(file), "--run", str(folder.path), *going_on, *given])
    _wait_for_all()
    if not folder.student.is_dir():
        raise ConfigError(
            where=f"{command}, {folder}",
            found="a training that left no student",
            expected="a run with a student folder",
            fix="leave trainer.fast_dev_run out",
        )


def _changed(file: Path, config: dict[str, Any]) -> list[str]:
    """Settings in which the config differs from that of a run that has been started."""
    before = load_yaml(file.read_text(encoding="utf-8"))
    lines = differences(file, yaml.safe_dump(config))
    return lines or [
        f"{key}: {before.get(key)} -> {now}" for key, now in config.items() if before.get(key) != now
    ]


def _wait_for_all() -> None:
    """The first of several processes writes the student that all of them read next."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
