"""Where metrics go: always to one CSV file, and to Weights & Biases as far as there is a way."""

from __future__ import annotations

import csv
import errno
import io
import netrc
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any, Final
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]

from lightning_distill.cli.steady_wandb import SteadyWandbLogger, warn_of
from lightning_distill.errors import printable
from lightning_distill.reporting.atomic import write_atomically
from lightning_distill.writing.disk import refusals_named

_FIRST: Final = ("step", "epoch")


class HistoryLogger(Logger):
    """Rows of `metrics.csv`, one a call; a resumed run goes on in the same file.

    Lightning's CSVLogger deletes an existing file when it starts.

    Args:
        folder: Of the file.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / "metrics.csv"
        self._columns: list[str] = []
        self._count: int | None = None
        self._pending: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        """Of the run."""
        return self.file.parent.name

    @property
    def version(self) -> str:
        """There is only one."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.file.parent)

    log_dir = save_dir

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row."""
        # A line break in a name would begin another row for whoever reads line by line.
        self._count = self.rows + 1
        self._pending.append({"step": step, **{printable(n, 10**6): x for n, x in metrics.items()}})

    @property
    def rows(self) -> int:
        """How many there are."""
        if self._count is None:
            self._count = len(self._read()) + len(self._pending)
        return self._count

    @rank_zero_only
    def rewind(self, rows: int) -> None:
        """Drop what a resumed run will say again.

        Args:
            rows: How many there were when its checkpoint was made.
        """
        there = self._read()
        if rows < len(there):
            self._rewrite(there[:rows])
        self._count = None

    @rank_zero_only
    def save(self) -> None:
        """Write the new rows; the whole file where there are new columns."""
        if not self._pending:
            return
        known = self._columns or self._read_columns()
        new = {name for row in self._pending for name in row} - set(known)
        if new:
            old = self._read()
            self._columns = [n for n in _FIRST if n in new or n in known]
            self._columns += sorted((new | set(known)) - set(_FIRST))
            self._rewrite([*old, *self._pending])
        else:
            self._columns = known
            self._append()
        self._pending = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()

    def _read_columns(self) -> list[str]:
        if not self.file.is_file():
            return []
        with self.file.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])

    def _read(self) -> list[dict[str, Any]]:
        if not self.file.is_file():
            return []
        with self.file.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _append(self) -> None:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerows(self._pending)
        content = text.getvalue().encode()
        with refusals_named(self.file, len(content)), self.file.open("ab", buffering=0) as file:
            whole = file.tell()
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file))
            except OSError:
                file.truncate(whole)  # no half of a row
                raise

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self._columns = self._columns or self._read_columns()
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.file, text.getvalue())


def loggers_of_run(
    given: bool | Logger | Iterable[Logger] | None, folder: Path, wandb_id: str | None
) -> list[Logger]:
    """`metrics.csv` always; W&B where the user named no loggers.

    Args:
        given: `trainer.logger`.
        folder: Of the run.
        wandb_id: Of the W&B run to go on with.
    """
    history = HistoryLogger(folder)
    if given is None or given is True:
        wandb = wandb_logger(folder, wandb_id)
        return [history] if wandb is None else [history, wandb]
    own = [] if given is False else [given] if isinstance(given, Logger) else list(given)
    for logger in own:
        if type(logger) is WandbLogger:  # W&B must get no secrets from one that the config has named either
            logger.__class__ = SteadyWandbLogger
    return [*own, history]  # Lightning asks the first logger for the log folder: the user's own


def wandb_mode() -> str:
    """`online`, `offline` or `disabled`: as WANDB_MODE says, else as W&B's own settings and keys allow."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    if not asked:
        import wandb

        settings = wandb.setup().settings
        asked = settings.mode if settings.mode != "online" else ""
        if not asked:
            return "online" if settings.api_key or _in_netrc(settings.base_url) else "offline"
    return {"dryrun": "offline", "run": "online"}.get(asked, asked)


def _in_netrc(url: str) -> bool:
    names = (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")
    for path in (Path(name).expanduser() for name in names if name):
        try:
            if path.is_file() and netrc.netrc(path).hosts.get(urlsplit(url).hostname or ""):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def wandb_logger(folder: Path, run_id: str | None) -> WandbLogger | None:
    """The W&B logger of a run, offline where there is no key; none where W&B is switched off."""
    try:
        return _wandb_logger(folder, run_id)
    except Exception as error:  # not installed, or broken
        warn_of(error)
        return None


def _wandb_logger(folder: Path, run_id: str | None) -> WandbLogger | None:
    mode = wandb_mode()
    if mode == "disabled":
        return None
    import wandb

    offline = mode == "offline"
    if offline:  # W&B would report on itself all the same, since it is told the mode later
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    logger = SteadyWandbLogger(
        name=folder.name,
        save_dir=folder,
        id=run_id or _id_of_agent() or token_hex(4),
        project=os.environ.get("WANDB_PROJECT") or wandb.setup().settings.project or "lightning-distill",
        mode=mode,
        settings=wandb.Settings(silent=True) if offline else None,
    )
    # Lightning always passes it on, and W&B then warns that it has no effect.
    getattr(logger, "_wandb_init", {}).pop("anonymous", None)
    return logger


def _id_of_agent() -> str | None:
    """What the agent of a sweep calls the run that it has started this process for."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def finish_wandb(loggers: Sequence[WandbLogger]) -> None:
    """End W&B's run, which would otherwise swallow the next one of this process."""
    if loggers:
        import wandb

        try:
            wandb.finish()
        except Exception as error:  # training itself has ended well, or with an error of its own
            if not any(getattr(logger, "failed", False) for logger in loggers):
                warn_of(error)
