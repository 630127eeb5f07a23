"""Memory that runs out, told with what was being done."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch

from lightning_distill.errors import DistillError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


class MemoryShortError(DistillError):
    """Memory ran out during a training step."""

    updating: bool = False
    """Whether some weights may have been updated and others not."""


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch's allocator for the CPU has no type of its own for it.

    >>> ran_out(MemoryError()), ran_out(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def told(
    error: BaseException, trainer: Trainer, doing: str, samples: int, updating: bool
) -> MemoryShortError:
    """What to say of it.

    Args:
        error: That says so.
        trainer: Knows which step it is.
        doing: Such as "the backward pass".
        samples: In the batch.
        updating: Whether some weights may have been updated and others not.
    """
    asked = " ".join(str(error).split("\n")[0].split())
    short = MemoryShortError(
        where=f"epoch {trainer.current_epoch}, step {trainer.global_step}, {doing}",
        found=f"no memory left for a batch of {samples} samples; at most {_peak(trainer)} were in use"
        + (f" ({type(error).__name__}: {asked})" if asked else f" ({type(error).__name__})"),
        expected="memory for the whole step; "
        + (
            "its update had begun, so these weights are not saved"
            if updating
            else "no update was made, the weights are those of the step before"
        ),
        fix="lower data.batch_size and raise trainer.accumulate_grad_batches by the same factor, or take a"
        " smaller model, or trainer.precision bf16-mixed",
    )
    short.updating = updating
    return short


def _peak(trainer: Trainer) -> str:
    """Most memory that was in use: of the device, or of this process."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MiB of {device}"
    try:
        import resource
    except ImportError:  # Windows
        return "an unknown number of MiB"
    unit = 1 if sys.platform == "darwin" else 2**10
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:,.0f} MiB"


class MemoryWatch:
    """A block in which memory may run out; what says so leaves it as a `MemoryShortError`.

    Args:
        trainer: Knows which step it is.
        doing: What the block does, such as "the backward pass".
        samples: In the batch.
        updating: Whether it updates weights.
    """

    def __init__(self, trainer: Trainer, doing: str, samples: int, updating: bool = False) -> None:
        self._told = (trainer, doing, samples, updating)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if error is not None and ran_out(error):
            raise told(error, *self._told) from error
