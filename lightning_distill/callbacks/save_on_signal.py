"""A signal ends or requeues a training, and costs it no step."""

from __future__ import annotations

import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from lightning_distill.callbacks.loop_counts import Counts, before_batch, before_validation
from lightning_distill.callbacks.requeue import requeue
from lightning_distill.callbacks.signal_flags import SignalFlags, largest
from lightning_distill.taught import TaughtModule


class SignalExit(SystemExit):
    """Training has been left because of a signal, and what it had done is saved.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class SaveOnSignal(Callback):
    """On SIGTERM, SIGINT or SLURM's requeue signal, saves a checkpoint at the next safe point.

    The run that goes on from it does what this one would have done, to the last bit. SIGTERM and the first
    SIGINT then end the process, the second SIGINT ends it at once; after a requeue signal training goes on
    until SLURM ends it. Safe points are between two training batches when no gradients are accumulated, and
    any time in validation; a validation that is cut short is done again. One process that gets a signal is
    enough: all save and leave together. Lightning's own handlers are replaced during training.

    Trainer(callbacks=[SaveOnSignal("checkpoints")]).fit(module, ckpt_path="checkpoints/last.ckpt")

    Args:
        dirpath: Folder in which `last.ckpt` is written.

    Raises:
        SignalExit: Out of `fit`, when a signal has ended it.

    >>> Trainer(callbacks=[SaveOnSignal("checkpoints")], logger=False).callbacks[0].exit_code
    0
    """

    def __init__(self, dirpath: Path | str) -> None:
        self.dirpath = Path(dirpath)
        self._flags = SignalFlags()
        self._left = 0
        self._new, self._whole, self._step = False, True, 0
        self._counts: Counts | None = None
        self._common: list[float] = []

    @property
    def exit_code(self) -> int:
        """What the process is to end with: 143 after SIGTERM, 130 after SIGINT, else 0."""
        number = self._left or self._flags.stop
        return 128 + number if number else 0

    # -- hooks ----------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier training."""
        self._flags, self._left = SignalFlags(), 0
        self._new, self._whole, self._step = False, True, trainer.global_step

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, signals are ours."""
        self._flags.take_over(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, where there was no sanity check."""
        self._flags.take_over(trainer)
        self._step = trainer.global_step
        self._look(trainer, before_batch)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Here the batch before has been logged, and followed by all that follows a batch."""
        self._look(trainer, before_batch)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """See whether gradients have become a step."""
        self._whole, self._step = trainer.global_step > self._step, trainer.global_step
        self._new = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first batch."""
        if trainer.state.fn != "fit":
            return
        self._common = self._batches_of_all(trainer)
        if not trainer.sanity_checking:
            # No batch is on its way; after a resume, Lightning still counts the one that was.
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()
            self._look(trainer, before_validation)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """After each batch that all processes have."""
        if trainer.state.fn == "fit" and batch_idx < self._common[dataloader_idx]:
            self._look(trainer, before_validation)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What callbacks have made of the validation is worth saving too."""
        self._new = self._new or not trainer.sanity_checking

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say where to go on, in a checkpoint of ours, to modules that do not find it out themselves."""
        if self._counts is not None and not isinstance(pl_module, TaughtModule):
            checkpoint["loops"]["fit_loop"] = self._counts

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over: there is nothing left to interrupt."""
        self._flags.give_back()
        stop = self._left = self._flags.asked(trainer).stop
        if stop:
            rank_zero_info(f"{_name(stop)}: training was over, and is finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The handlers of before; Lightning gives them back itself, once it has left because of a signal."""
        # A launcher ends the other processes when the first has left, by a signal: let them leave too.
        if not isinstance(exception, SignalExit):
            self._flags.give_back()
        if isinstance(exception, SystemExit | KeyboardInterrupt):
            for process in getattr(trainer.strategy.launcher, "procs", ()):
                if isinstance(process, BaseProcess) and process.is_alive():
                    process.terminate()  # this one only waits for those it has forked, which train

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The handlers of before."""
        self._flags.give_back()

    # -- saving ---------------------------------------------------------------------------------------

    def _look(self, trainer: Trainer, counts: Callable[[Trainer], Counts]) -> None:
        """At a point where it would be safe: do what a signal has asked for."""
        wants_requeue, stop = self._flags.asked(trainer)
        if not self._whole or not (wants_requeue or stop):
            return
        saved = self._new
        if saved:
            self._save(trainer, counts(trainer))
        for logger in trainer.loggers:
            logger.save()  # in a process that was forked, nobody finishes them
        if wants_requeue:
            self._flags.requeue = False
            if trainer.is_global_zero:
                requeue()
        # A run that has all its steps would not come back to a validation: that one is finished first.
        if stop and not 0 <= trainer.max_steps <= trainer.global_step:
            self._left = stop
            at = f"saved step {trainer.global_step} to {self._path}" if saved else "nothing new to save"
            rank_zero_info(f"{_name(stop)}: {at}; go on with --resume auto")
            raise SignalExit(stop)

    @property
    def _path(self) -> Path:
        return self.dirpath / "last.ckpt"

    def _save(self, trainer: Trainer, counts: Counts) -> None:
        self._counts = counts
        try:
            trainer.save_checkpoint(self._path, weights_only=False)  # all of it; left out, Lightning logs so
        finally:
            self._counts = None
        self._new = False

    def _batches_of_all(self, trainer: Trainer) -> list[float]:
        """How many validation batches, a loader, every process has: they must not wait for more."""
        found = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        if trainer.world_size == 1:
            return [float(n) for n in found]
        least = largest(trainer, [-float(n) for n in found])
        return [0.0 if n == float("-inf") else -n for n in least]  # of a stream nobody knows


def _name(number: int) -> str:
    return signal.Signals(number).name
