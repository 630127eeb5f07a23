"""The folder of a run: claimed late, never overwritten by accident, never left half-made."""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from lightning_distill.cli.environment import environment
from lightning_distill.cli.run_lock import NAME as LOCK
from lightning_distill.cli.run_lock import RunLock
from lightning_distill.cli.run_space import try_appending, try_writing
from lightning_distill.errors import CheckpointError, ConfigError
from lightning_distill.writing.disk import refusals_named

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
        # A link, as to a larger disk, stays: what is renamed and removed is the folder behind it.
        self.path = path.resolve() if path.is_symlink() else path.absolute()
        self.resume, self.overwrite = resume, overwrite
        self._replaced = self.path.with_name(f".{self.path.name}.{os.getpid()}.replaced")
        self._made: list[Path] = []
        self._committed = False
        self._lock, self._replaced_lock = RunLock(self.path), RunLock(self.path)

    @classmethod
    def for_fit(cls, run: Path | None, resume: bool, overwrite: bool, stem: str) -> RunFolder:
        """The folder of a training run that is about to start; nothing is written yet.

        Raises:
            ConfigError: If the folder is in use, or the options contradict each other.
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
        RunLock(folder.path).check()
        folder.restore_replaced()
        there = run.exists() and (not run.is_dir() or any(run.iterdir()))
        folder.resume = resume and there
        if there and not resume:
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
        if not self.is_run_or_empty:
            raise ConfigError(
                where=f"--run {self}",
                found="no config.yaml: this is not the folder of a run",
                expected="a run, since --overwrite removes everything in it",
                fix="name another folder",
            )

    def restore_replaced(self) -> None:
        """Undo what a process that was killed while it replaced the run has left."""
        for old in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.replaced"):
            try:
                RunLock(old).check()
            except ConfigError:
                continue  # it is at work on that
            if self.config.is_file():
                shutil.rmtree(old)
            else:
                shutil.rmtree(self.path, ignore_errors=True)
                old.rename(self.path)

    @property
    def is_run_or_empty(self) -> bool:
        """Whether what is there may be started again: a run that was killed early has no config yet."""
        if not self.path.exists():
            return True
        names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else {""}
        return not names or bool(names & {self.config.name, LOCK})

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
        try:
            with refusals_named(self.path):
                self._claim()
            try_writing(self.checkpoints)
            try_appending(self.path / "metrics.csv")
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        from lightning_distill.checkpoints import sweep  # only now: it loads torch

        sweep(self.checkpoints)
        os.environ[_INHERITED] = str(self.path)
        return self

    def _claim(self) -> None:
        if self.overwrite and self.path.exists():
            self._replaced_lock.take()  # it goes along with the folder
            self.path.rename(self._replaced)
        self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock.take()
        if not (self.resume or self._made) and [p.name for p in self.path.iterdir()] != [LOCK]:
            self._lock.release()  # another run was quicker, and has ended
            self._check_replaceable()

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
        env = {**environment(), **details}
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
        # Where a launcher forks or spawns all processes, one of them has begun the run, not this one.
        begun = self._committed or self.config.is_file()
        if not (error is None or begun or self.resume):
            self._undo()
        self._lock.release()
        self._replaced_lock.release()

    def _undo(self) -> None:
        if self._lock.held:
            shutil.rmtree(self.path)
            if not self._made:
                self.path.mkdir()
        for folder in self._made:
            if folder.exists() and not any(folder.iterdir()):  # another run may have started below it
                folder.rmdir()
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


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with refusals_named(path, len(text.encode())):
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
