"""Weights & Biases as a guest: it gets no secrets, and what fails in it does not end a training."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment  # type: ignore[attr-defined]
from lightning.pytorch.utilities.rank_zero import (  # type: ignore[attr-defined]
    rank_zero_only,
    rank_zero_warn,
)

from lightning_distill.errors import printable
from lightning_distill.security.secrets import redacted, redacted_values

_ROOM: Final = 1 << 16
"""Free bytes below which the disk counts as full: W&B writes in blocks of half of it."""


class SteadyWandbLogger(WandbLogger):
    """A `WandbLogger` that says once what fails, and from then on does nothing."""

    failed = False
    """Whether something has."""
    first_step: int | None = None
    """W&B's own step of the first row of a resumed session; None leaves it to W&B."""

    @property
    def experiment(self) -> Any:
        """W&B's run; a dummy once something has failed."""
        if self.failed:
            return DummyExperiment()
        new = self._experiment is None
        if new:
            given = self._wandb_init
            self._wandb_init = {k: v if k == "settings" else redacted_values(v) for k, v in given.items()}
        with _discreet_start() if new else nullcontext():
            run = self._tried(lambda: WandbLogger.experiment.fget(self))  # type: ignore[attr-defined]
        for handler in logging.getLogger("wandb").handlers if new else ():
            # It would print a traceback for each line of W&B's own log that a full disk refuses.
            handler.handleError = lambda record: self._fail(sys.exc_info()[1])  # type: ignore[method-assign]
        return run or DummyExperiment()

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Send them; `RunRecord` has taken the secrets out."""
        self._tried(lambda: super(SteadyWandbLogger, self).log_hyperparams(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send them."""
        self._tried(lambda: self._send(metrics, step))

    @rank_zero_only
    def summarise(self, values: Mapping[str, float]) -> None:
        """Put values into the run's summary, beside the last ones of the history."""
        self._tried(lambda: self.experiment.summary.update(dict(values)))

    @rank_zero_only
    def save(self) -> None:
        """See whether there is room for more: W&B's own process tells nobody where there is none."""
        place = Path(self.save_dir or ".")
        if not self.failed and place.is_dir() and shutil.disk_usage(place).free < _ROOM:
            self._fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place)))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send what is left."""
        self._tried(lambda: super(SteadyWandbLogger, self).finalize(status))

    def _send(self, metrics: Mapping[str, float], step: int | None) -> None:
        if self.first_step is not None:
            # An empty row sets W&B's counter, which then goes on by itself.
            self.experiment.log({}, step=self.first_step)
            self.first_step = None
        super().log_metrics(metrics, step)

    def _tried(self, work: Callable[[], Any]) -> Any:
        if self.failed:
            return None
        try:
            return work()
        except Exception as error:  # whatever W&B raises
            self._fail(error)
            return None

    def _fail(self, error: BaseException | None) -> None:
        if not self.failed:
            self.failed = True
            warn_of(error)


def warn_of(error: BaseException | None) -> None:
    """Say that W&B has failed.

    Args:
        error: What it raised.
    """
    told = printable(redacted(" ".join(f"{type(error).__name__}: {error}".split())), 500)
    rank_zero_warn(f"Weights & Biases fails, and gets no more of this run; metrics.csv has all: {told}")


@contextmanager
def _discreet_start() -> Iterator[None]:
    """W&B writes down the command line, and prints a traceback where its own log cannot be written."""
    given, raising = sys.argv, logging.raiseExceptions
    sys.argv, logging.raiseExceptions = redacted_values(given), False
    try:
        yield
    finally:
        sys.argv, logging.raiseExceptions = given, raising
