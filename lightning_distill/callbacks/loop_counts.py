"""What Lightning's loops must count in a checkpoint, for a run to go on exactly where it was left.

Lightning takes from these counts whether a batch, a validation or an epoch was under way. In what it writes
itself between two batches, or in a validation, some of them stand as if that was over or had never begun:
the validation would be left out, or an empty epoch would be counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

Counts = dict[str, Any]
"""The state of a fit loop."""


def before_batch(trainer: Trainer) -> Counts:
    """At the start of a training batch: that the one before has just been trained on, also of a new epoch.

    Args:
        trainer: Between two training batches.
    """
    counts: Counts = trainer.fit_loop.state_dict()
    batches = counts["epoch_loop.batch_progress"]
    for count in (batches["total"], batches["current"]):
        done = count["completed"]
        # Lightning completes a batch that was processed, and goes on; it does not validate once more.
        count.update(ready=done, started=done, processed=done, completed=done - 1)
    batches["is_last_batch"] = False
    counts["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1  # completing the batch adds it
    return counts


def before_validation(trainer: Trainer) -> Counts:
    """In a validation: that its first batch is under way, so that all of it is done again.

    Args:
        trainer: In a validation within `fit`.
    """
    counts: Counts = trainer.fit_loop.state_dict()
    batches = counts["epoch_loop.val_loop.batch_progress"]
    earlier = batches["total"]["completed"] - batches["current"]["completed"]
    for count, done in ((batches["total"], earlier), (batches["current"], 0)):
        count.update(ready=done + 1, started=done + 1, processed=done, completed=done)
    batches["is_last_batch"] = False
    return counts
