"""The folder of a run: claimed late, never overwritten by accident, never left half-made."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from lightning_distill import __version__
from lightning_distill.errors import CheckpointError, ConfigError

_INHERITED: Final = "LIGHTNING_DISTILL_RUN"
"""Tells the other processes of a distributed run which folder the first one has made."""


class RunFolder:
    """`config.yaml`, `env.json`, `metrics.csv`, `checkpoints/`, `student/` of one run.

    As a context it holds the folder while a run starts: what fails before `commit` leaves no trace, and a
    folder that is to be replaced comes back.

    Args:
        path: The folder.
        resume: Go on with the run in it.
        overwrite: Replace the run in it.
    """

    def __init__(self, path: Path, resume: bool = False, overwrite: bool = False) -> None:
        self.path = path.absolute()
        self.resume, self.overwrite = resume, overwrite
        self._replaced = self.path.with_name(f".{self.path.name}.{os.getpid()}.replaced")
        self._made: list[Path] = []
        self._committed = False

    @classmethod
    def for_fit(cls, run: Path | None, resume: bool, overwrite: bool, stem: str) -> RunFolder:
        """The folder of a training run that is about to start; nothing is written yet.

        Raises:
            ConfigError: If the folder is in use, or the options contradict each other.
            CheckpointError: If there is nothing to resume.
        """
        if _follows():
            return cls(Path(os.environ.get(_INHERITED) or run or Path("runs", stem)), resume, overwrite)
        if run is None or (resume and overwrite):
            if resume or overwrite:
                raise ConfigError(
                    where="command line",
                    found="--resume and --overwrite" if run else "--resume or --overwrite without --run",
                    expected="--run DIR with one of them",
                    fix="name the folder of the run, for example --run runs/digits --resume auto",
                )
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{stem}"
            names = [name, *(f"{name}-{n}" for n in range(2, 100))]
            return cls(next(Path("runs", n) for n in names if not Path("runs", n).exists()))
        folder = cls(run, resume, overwrite)
        if resume:
            folder.last_checkpoint()
        elif run.exists() and (not run.is_dir() or any(run.iterdir())):
            folder._check_replaceable()
        return folder

    @classmethod
    def of_checkpoint(cls, checkpoint: Path | str) -> RunFolder | None:
        """The run that a checkpoint lies in, if it does."""
        folder = cls(Path(checkpoint).absolute().parent.parent)
        return folder if folder.config.is_file() else None

    def _check_replaceable(self) -> None:
        if not self.overwrite:
            raise ConfigError(
                where=f"--run {self}",
                found="a folder that is not empty",
                expected="a new one",
                fix="go on with that run by --resume auto, replace it by --overwrite, or name another folder",
            )
        if not self.config.is_file():
            raise ConfigError(
                where=f"--run {self}",
                found="no config.yaml: this is not the folder of a run",
                expected="a run, since --overwrite removes everything in it",
                fix="name another folder",
            )

    def __str__(self) -> str:
        """As short as it can be typed."""
        here = Path.cwd()
        return str(self.path.relative_to(here) if self.path.is_relative_to(here) else self.path)

    @property
    def config(self) -> Path:
        """The full config."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Folder of `best.ckpt` and `last.ckpt`."""
        return self.path / "checkpoints"

    @property
    def student(self) -> Path:
        """Folder of the exported student."""
        return self.path / "student"

    def last_checkpoint(self) -> Path:
        """What `--resume auto` goes on from."""
        return self._checkpoint("last.ckpt")

    def best_checkpoint(self) -> Path:
        """What validate, test and predict use."""
        return self._checkpoint("best.ckpt")

    def _checkpoint(self, name: str) -> Path:
        path = self.checkpoints / name
        if not path.is_file():
            there = sorted(p.name for p in self.checkpoints.glob("*.ckpt"))
            raise CheckpointError(
                where=f"--run {self}",
                found=f"no checkpoints/{name}" + (f", only {', '.join(there)}" if there else ""),
                expected="the folder of a run that finished at least one epoch",
                fix="check the path, or name a checkpoint with --ckpt_path FILE",
            )
        return path

    def __enter__(self) -> RunFolder:
        if _follows():
            return self
        if self.overwrite and self.path.exists():
            self.path.rename(self._replaced)
        if not self.path.exists():
            self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
            self.path.mkdir(parents=True)
        os.environ[_INHERITED] = str(self.path)
        return self

    def commit(self, config: str, details: Mapping[str, Any]) -> None:
        """The run has started: write its config and environment; what it replaces goes.

        Args:
            config: Text of config.yaml.
            details: What env.json should hold besides versions.
        """
        self._committed = True
        if _follows():
            return
        env_file = self.path / "env.json"
        env = {**_environment(), **details}
        if self.resume and env_file.is_file():
            old = json.loads(env_file.read_text(encoding="utf-8"))
            env["before"] = [*old.pop("before", []), old]
        _write(env_file, json.dumps(env, indent=2) + "\n")
        _write(self.config, config)
        shutil.rmtree(self._replaced, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if _follows():
            return
        os.environ.pop(_INHERITED, None)
        if error is None or self._committed or self.resume:
            return
        shutil.rmtree(self.path)
        for folder in self._made[1:]:
            if not any(folder.iterdir()):  # another run may have started below it
                folder.rmdir()
        if not self._made:
            self.path.mkdir()
        if self._replaced.exists():
            self._replaced.rename(self.path)

    def wandb_id(self) -> str | None:
        """The W&B run that a resumed run belongs to."""
        env_file = self.path / "env.json"
        if not (self.resume and env_file.is_file()):
            return None
        found = json.loads(env_file.read_text(encoding="utf-8")).get("wandb_id")
        return None if found is None else str(found)


def _follows() -> bool:
    """Whether another process of a distributed run writes the files."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]

    return bool(getattr(rank_zero_only, "rank", 0))


def differences(old: Path, new: str) -> list[str]:
    """Settings of model, data and trainer in which two configs differ, one line each."""
    before, after = (
        _flat({k: v for k, v in (yaml.safe_load(text) or {}).items() if k in ("model", "data", "trainer")})
        for text in (old.read_text(encoding="utf-8"), new)
    )
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            k: v for name, item in value.items() for k, v in _flat(item, f"{at}.{name}".lstrip(".")).items()
        }
    return {at: value}


def _environment() -> dict[str, Any]:
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


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
