"""What can be told from the words of a command line before it is parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_distill.cli.run_folder import RunFolder
from lightning_distill.errors import CheckpointError, ConfigError, nearest
from lightning_distill.security.secrets import MASK, masked_keys


def config_files(words: Sequence[str]) -> list[Path]:
    """The files that a command line names."""
    values = [word.partition("=")[2] if word.startswith("--") else word for word in words]
    return [Path(v) for v in values if v.endswith((".yaml", ".yml", ".json")) and Path(v).is_file()]


def run_stem(words: Sequence[str]) -> str:
    """What a run without a name is called after: its config.

    >>> run_stem(["fit", "--model.clip_rule", "value.yaml", "--config", "configs/digits.yaml"])
    'digits'
    """
    return Path(_value(words, "--config") or _value(words, "-c") or "fit").stem


def names_config(words: Sequence[str]) -> bool:
    """Whether a command line says by itself what is to be run."""
    return bool(_value(words, "--config") or _value(words, "-c"))


def check_there(checkpoint: Any) -> None:
    """A mistyped path is found before the data are read; names such as "last" are Lightning's to explain."""
    path = Path(str(checkpoint))
    if path.suffix == ".ckpt" and "://" not in str(checkpoint) and not path.is_file():
        there = [p.name for p in path.parent.glob("*.ckpt")]
        raise CheckpointError(
            where="--ckpt_path",
            found=f"no file {path}",
            expected="a checkpoint",
            fix=f"check the path{nearest(path.name, there)}",
        )


def check_nothing_masked(config: Mapping[str, Any]) -> None:
    """A config that a run has written has `***` where a secret was, which must be given again.

    Raises:
        ConfigError: If one is still there.
    """
    keys = list(masked_keys(config))
    if keys:
        more = f", and {len(keys) - 1} more" if len(keys) > 1 else ""
        raise ConfigError(
            where=f"config, {keys[0]}",
            found=f"{MASK}: it was a secret, which a run does not write down{more}",
            expected="the secret itself",
            fix=f"give it again on the command line, with {', '.join(f'--{key}' for key in keys[:5])}",
        )


def with_config_of_run(command: str, words: Sequence[str]) -> list[str]:
    """Add `--config RUN/config.yaml` where a command goes on with a run and no config is named."""
    words = list(words)
    values = {name: _value(words, name) for name in ("--run", "--resume", "--ckpt_path")}
    if names_config(words) or (command == "fit" and not values["--resume"]):
        return words
    if values["--run"]:
        folder: RunFolder | None = RunFolder(Path(values["--run"]))
        if command == "fit" and folder is not None:
            folder.restore_replaced()
    else:
        folder = RunFolder.of_checkpoint(values["--ckpt_path"]) if values["--ckpt_path"] else None
    if folder is None:
        return words
    if not folder.config.is_file():
        raise ConfigError(
            where=f"--run {folder}",
            found="no config.yaml",
            expected="the folder of a run",
            fix="check the path, or name a config with --config FILE",
        )
    at = words.index(command) + 1
    return [*words[:at], "--config", str(folder.config), *words[at:]]


def _value(words: Sequence[str], name: str) -> str:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""
