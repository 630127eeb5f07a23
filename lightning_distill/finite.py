"""Stopping on a loss that is NaN or infinite, without making an accelerator wait."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_distill.errors import NonFiniteError
from lightning_distill.structures import Batch

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class _Step(NamedTuple):
    """One step's loss and terms on their way to the host."""

    values: Tensor
    arrived: torch.Event | None
    names: tuple[str, ...]
    sample_id: Tensor
    epoch: int
    number: int


class FiniteCheck:
    """Stops a training whose loss is NaN or infinite.

    To read a loss at once is to wait for it: on the CPU that costs nothing, an accelerator runs empty
    meanwhile. Deferred, the loss is copied to the host without waiting and read when it has arrived, a step
    or a few later. The weights have then been updated with it, so `settle` must be called before they are
    saved or evaluated.

    Args:
        deferred: Whether losses are read later.
    """

    def __init__(self, deferred: bool) -> None:
        self._deferred = deferred
        self._pending: deque[_Step] = deque()

    def __call__(self, loss: Tensor, terms: Mapping[str, Tensor], batch: Batch, trainer: Trainer) -> None:
        """Look at this step's loss, or at those of earlier steps that have arrived.

        Args:
            loss: 0-d.
            terms: Name -> raw value, 0-d; to tell which of them it was.
            batch: The batch of the step.
            trainer: Knows which step it is.

        Raises:
            NonFiniteError: If one of them is NaN or infinite.
        """
        if self._deferred:
            self._read(wait=False)
        elif math.isfinite(loss.item()):
            return
        values = torch.stack([loss, *terms.values()]).detach()
        host = values.to("cpu", non_blocking=self._deferred)
        arrived = None if values.device.type == "cpu" else torch.Event(values.device)
        if arrived is not None:
            arrived.record()
        at = (trainer.current_epoch, trainer.global_step)
        self._pending.append(_Step(host, arrived, tuple(terms), batch["sample_id"], *at))
        if not self._deferred:
            self._read(wait=True)

    def settle(self) -> None:
        """Wait for every loss that has not been looked at.

        Raises:
            NonFiniteError: If one of them is NaN or infinite.
        """
        self._read(wait=True)

    def _read(self, wait: bool) -> None:
        while self._pending:
            step = self._pending[0]
            if step.arrived is not None and not step.arrived.query():
                if not wait:
                    return
                step.arrived.synchronize()
            self._pending.popleft()
            if not math.isfinite(step.values[0].item()):
                self._pending.clear()  # what came after it is NaN because of it
                raise self._error(step)

    def _error(self, step: _Step) -> NonFiniteError:
        loss, *values = step.values.tolist()
        terms = dict(zip(step.names, values, strict=True))
        culprits = {name: value for name, value in terms.items() if not math.isfinite(value)}
        ids = step.sample_id.tolist()
        return NonFiniteError(
            where=f"epoch {step.epoch}, step {step.number}",
            found=f"loss {loss} from terms {culprits or terms}; samples {ids[:8]}"
            + (f" and {len(ids) - 8} more" if len(ids) > 8 else ""),
            expected="a finite loss; the weights "
            + (
                "have been updated with it, those of the last checkpoint have not"
                if self._deferred
                else "are those of the step before"
            ),
            fix="lower the learning rate, add a clip rule, or look at those samples",
        )
