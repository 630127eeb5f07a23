"""Where training goes on after a break, to the batch.

Lightning counts batches, but on resume it leaves out a validation that was due when a checkpoint was made
after a batch, and the end of the epoch with it; it goes on in the middle of a validation whose first half is
lost; and it forgets gradients of a step that was not taken yet, and all metrics. Here its counts are set so
that it does what was still to be done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

from lightning_distill.errors import CheckpointError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_KEY: Final = "resume"
_COUNTS: Final = ("ready", "started", "completed")


def note(
    checkpoint: dict[str, Any], trainer: Trainer, validated: bool, gradients_suffice: bool
) -> dict[str, Any]:
    """Add to a checkpoint what Lightning leaves out.

    Args:
        checkpoint: About to be written.
        trainer: In training.
        validated: Whether the validation in progress, if there is one, has ended but for its last hook.
        gradients_suffice: Whether a step over several batches can go on with the gradients so far alone.

    Returns:
        What was added, to add more to.
    """
    inside = trainer.validating and not validated
    added: dict[str, Any] = {"inside_validation": inside, "metrics": _metrics(trainer)}
    if trainer.fit_loop._should_accumulate() and trainer.world_size == 1 and gradients_suffice:
        added["gradients"] = [
            None if p.grad is None else p.grad.detach() for p in _parameters(trainer.optimizers)
        ]
    checkpoint[_KEY] = added
    return added


class Break(NamedTuple):
    """What had been done when a checkpoint was made.

    Attributes:
        between: The batch before had been closed, with its validation.
        validated: So had its validation, but not the batch.
        metrics: Those that callbacks see.
        gradients: Of the batches since the last step; None where there are none or they are not known.
        last_step: The Trainer's `max_steps`, if they had all been taken; else None.
        stopped: Whether training had been stopped early, for another reason than lost patience.
        log: What the log of training steps had noted.
    """

    between: bool
    validated: bool
    metrics: Mapping[str, Tensor]
    gradients: Sequence[Tensor | None] | None
    last_step: int | None
    stopped: bool
    log: Mapping[str, Any]


def take(checkpoint: dict[str, Any], trainer: Trainer) -> Break:
    """Read it from a checkpoint, whose counts of batches become those of whole batches.

    Args:
        checkpoint: As loaded, before Lightning restores its loops from it.
        trainer: It would not even begin where all `max_steps` are taken, though the epoch has not ended.
    """
    noted = checkpoint.get(_KEY, {})
    batches = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress")
    between = validated = False
    if batches is not None:
        counts = batches["total"]
        between = counts["ready"] > counts["processed"]
        closed = counts["completed"] == counts["processed"]
        validated = closed and not noted.get("inside_validation", False)
        if between:
            batches["is_last_batch"] = False
        for counts in (batches["total"], batches["current"]):
            counts.update(dict.fromkeys(_COUNTS, counts["processed"]))
    stopped = any(_stopped_at_once(state) for state in checkpoint.get("callbacks", {}).values())
    metrics, gradients, log = noted.get("metrics", {}), noted.get("gradients"), noted.get("log", {})
    loop, last_step = trainer.fit_loop.epoch_loop, None
    if within_epoch(checkpoint) and 0 <= loop.max_steps <= checkpoint.get("global_step", 0):
        last_step, loop.max_steps = loop.max_steps, checkpoint["global_step"] + 1
    return Break(between, validated, metrics, gradients, last_step, stopped, log)


def within_epoch(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was made before its epoch had ended."""
    epochs = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
    return bool(epochs.get("started", 0) > epochs.get("processed", 0))


def go_on(trainer: Trainer, done: Break) -> None:
    """Let Lightning do what was still to be done; within `on_train_start`.

    Args:
        trainer: Which has restored its loops.
        done: What `take` has read.
    """
    restore_metrics(trainer, done)
    loop: Any = trainer.fit_loop
    if loop.restarted_mid_epoch:
        due = _within_epoch(loop.epoch_loop, loop._data_fetcher, done)
    else:
        due = False
        if loop.restarted_on_epoch_end:  # only if the Trainer has max_steps
            loop.epoch_progress.increment_completed()
            _begin_anew(loop)
    _restore_gradients(trainer, done.gradients)
    for callback in trainer.checkpoint_callbacks:
        made: Any = callback
        waits = getattr(made, "_defer_save_until_validation", False)
        if (getattr(made, "_every_n_train_steps", 0) or not due) and not waits:
            # Else it would save once more at the next batch, which may be in the middle of a step.
            made._last_global_step_saved = trainer.global_step
    # Patience is asked for again: it may have been raised since.
    waited = [(c.wait_count, c.patience) for c in trainer.early_stopping_callbacks]
    if done.stopped or any(count and count >= patience for count, patience in waited):
        trainer.should_stop = True


def restore_metrics(trainer: Trainer, done: Break) -> None:
    """Tell the metrics that there were."""
    device = trainer.strategy.root_device
    trainer.callback_metrics.update({name: x.to(device) for name, x in done.metrics.items()})


def close_epoch(trainer: Trainer, done: Break | None) -> None:
    """Let the next epoch begin like any other; within `on_train_epoch_end`.

    Args:
        trainer: In training.
        done: What `go_on` was given, in the first epoch after a break.
    """
    loop = trainer.fit_loop.epoch_loop
    loop.on_iteration_done()
    if done is not None and done.last_step is not None:
        loop.max_steps = done.last_step
        loop.batch_progress.is_last_batch = loop.batch_progress.current.ready == trainer.num_training_batches


def _within_epoch(loop: Any, fetcher: Any, done: Break) -> bool:
    """Set the loop over batches to what comes next; whether that is a validation or the epoch's end."""
    batches = loop.batch_progress
    if not batches.current.processed:
        loop._restarting = False
        return False
    ended = batches.is_last_batch or batches.current.ready == loop.trainer.num_training_batches
    validates = loop._should_check_val_fx(fetcher)
    stepped = int(not loop._should_accumulate())
    # What Lightning will count by itself: it closes a batch again where a validation could follow.
    loop._batches_that_stepped += stepped * (int(not done.between) - int(validates))
    if validates and not (done.between or done.validated):
        loop.val_loop.batch_progress.reset()
        loop.val_loop._restarting = False
        loop.val_loop._restart_stage = "restarted_mid_evaluation"
        ended = True
    if done.last_step is not None:
        ended = batches.is_last_batch = True  # until the epoch is closed
    if ended and not validates:
        loop.val_loop._has_run = True  # there is none to wait for
    return bool(ended)


def _begin_anew(loop: Any) -> None:
    for part in (loop, loop.epoch_loop, loop.epoch_loop.val_loop):
        part._restarting = False
        part.reset_restart_stage()


def _restore_gradients(trainer: Trainer, gradients: Sequence[Tensor | None] | None) -> None:
    if not trainer.fit_loop._should_accumulate():
        return
    if gradients is None:
        raise CheckpointError(
            where=str(trainer.ckpt_path),
            found="a checkpoint from the middle of a step, without the gradients of its first batches",
            expected="one from between two steps, where several processes train, or a gradient_balancer "
            "looks at each term",
            fix="go on from another checkpoint; save by every_n_train_steps instead of by time",
        )
    for parameter, gradient in zip(_parameters(trainer.optimizers), gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.to(parameter.device)


def _parameters(optimizers: Sequence[Any]) -> list[Tensor]:
    return [p for o in optimizers for group in o.param_groups for p in group["params"]]


def _metrics(trainer: Trainer) -> dict[str, Tensor]:
    return {n: torch.as_tensor(x).detach().cpu() for n, x in trainer.callback_metrics.items()}


def _stopped_at_once(state: Any) -> bool:
    """Whether this is the state of an `EarlyStopping` that did not wait: a threshold, or a NaN."""
    if not (isinstance(state, Mapping) and {"wait_count", "patience", "stopped_epoch"} <= state.keys()):
        return False
    return bool(state["stopped_epoch"] and state["wait_count"] < state["patience"])
