"""Stopping, or leaving a step out, where a loss or a gradient is not finite; no accelerator waits for it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor, nn

from lightning_distill.errors import NonFiniteError
from lightning_distill.gradients import Gradients, is_finite, non_finite
from lightning_distill.guards.finite_news import SAID, LossNews, Sent, StepNews, in_a_row
from lightning_distill.guards.kept_buffers import KeptBuffers
from lightning_distill.guards.origin import Origin
from lightning_distill.structures import Batch

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_BATCHES: Final = 256
"""Of one optimizer step, at most, whose samples are remembered."""


class FiniteCheck:
    """Looks at every loss, and at all gradients before each step.

    To read a value at once is to wait for it: on the CPU that costs nothing, an accelerator runs empty
    meanwhile. Deferred, values are copied to the host without waiting and read when they have arrived, a step
    or a few later. If no step may be left out, the weights have then been updated with them, so `settle` must
    be called before they are saved or evaluated.

    Args:
        deferred: Whether values are read later.
        skip: How many optimizer steps in a row may be left out; 0 stops at the first.
    """

    def __init__(self, deferred: bool, skip: int = 0) -> None:
        self.deferred, self.skip = deferred, skip
        self.left_out = torch.zeros(())
        """How many optimizer steps were left out."""
        self._pending: deque[LossNews | StepNews] = deque()
        self._cause: NonFiniteError | None = None
        self._ids: deque[Tensor] = deque(maxlen=_BATCHES)
        self._in_a_row, self._told = 0, 0
        self._kept = KeptBuffers()

    @property
    def spoilt(self) -> bool:
        """Whether the step in progress is known to have a loss that is not finite."""
        return self._cause is not None

    def keep(self, module: nn.Module) -> None:
        """Before each forward pass: remember the buffers, if steps may be left out."""
        if self.skip:
            self._kept.keep(module)

    # -- what is looked at ----------------------------------------------------------------------------

    def __call__(
        self,
        loss: Tensor,
        terms: Mapping[str, Tensor],
        batch: Batch,
        trainer: Trainer,
        said: Tensor | None = None,
        origin: Callable[[], Origin] | None = None,
    ) -> Tensor:
        """Look at this batch's loss, or at those of earlier ones that have arrived.

        Args:
            loss: 0-d.
            terms: Name -> raw value, 0-d; to tell which of them it was.
            batch: What the loss is of.
            trainer: Knows which step it is.
            said: The teacher's logits, which must be finite too.
            origin: Finds out where it began.

        Returns:
            The loss. Where steps may be left out and it is not finite, one whose gradients are NaN, so that
            all processes leave the step out.

        Raises:
            NonFiniteError: If one of them is NaN or infinite, and no step may be left out.
        """
        if (ids := batch.get("sample_id")) is not None:  # a foreign batch computes them when it must
            self._ids.append(ids)
        if self.deferred:
            self._read()
        elif math.isfinite(loss.item()) and (said is None or is_finite(said)):
            return loss
        named = dict(terms)
        with torch.no_grad():
            if said is not None:
                named[SAID] = torch.linalg.vector_norm(said, math.inf)
            values = torch.stack([loss, *named.values()])
            fine = values[0].isfinite() & (values[0] if said is None else values[-1]).isfinite()
        sent = Sent.off(values, wait=not self.deferred)
        at = (_place(trainer), trainer.fit_loop.batch_idx)
        self._hear(LossNews(sent, tuple(named), batch, *at, self.deferred, origin))
        return loss * torch.where(fine, 1.0, math.nan).to(loss.dtype) if self.skip else loss

    def gradients(self, gradients: Gradients) -> Tensor:
        """Look at the gradients of a step that is about to be taken.

        Args:
            gradients: At least one, unscaled, as they came.

        Returns:
            bool 0-d, on their device: whether the step is to be left out.

        Raises:
            NonFiniteError: If an entry is NaN or infinite, and no further step may be left out.
        """
        where = f"epoch {gradients.epoch}, step {gradients.step}"
        return self._look(non_finite(gradients), gradients, where)

    def overflow(self, found: Tensor, trainer: Trainer) -> Tensor:
        """What the loss scaler has found, who leaves the step out: no error, if the losses were finite.

        Args:
            found: float 0-d, above 0 where gradients are not finite.
            trainer: Knows which step it is.

        Returns:
            bool 0-d.

        Raises:
            NonFiniteError: If a loss was not finite, and no further step may be left out.
        """
        return self._look((found > 0).reshape(1), None, _place(trainer))

    def _look(self, flags: Tensor, gradients: Gradients | None, where: str) -> Tensor:
        bad, ids = flags.any(), tuple(self._ids)
        self._ids.clear()
        if not (self.deferred or bad):
            self._cause, self._in_a_row = None, 0
            return bad
        if self.skip or gradients is None:
            self.left_out = self.left_out.to(bad.device) + bad
        sent = Sent.off(flags, wait=not self.deferred)
        names = None if gradients is None else gradients.names
        # Kept to be read later, they would need the memory of a second set of gradients.
        local = () if gradients is None or self.deferred else gradients.local
        self._hear(StepNews(sent, names, local, ids, where, self.deferred))
        return bad

    def end_step(self, left_out: Tensor | None) -> None:
        """After balancer and rule: put buffers back where the step is left out.

        Args:
            left_out: bool 0-d; None where nobody has looked.
        """
        self._kept.end(left_out)
        if left_out is None:
            self._ids.clear()
            self._cause = None

    def state(self) -> dict[str, Any]:
        """How many steps were left out, for a checkpoint."""
        return {"left_out": self.left_out.cpu(), "in_a_row": self._in_a_row}

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Count on from there.

        Args:
            state: What `state` gave.
        """
        self.left_out, self._in_a_row = state["left_out"], state["in_a_row"]

    # -- what comes of it -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait for everything that has not been looked at.

        Raises:
            NonFiniteError: If something is NaN or infinite, and no further step may be left out.
        """
        self._read(wait=True)

    def _hear(self, news: LossNews | StepNews) -> None:
        self._pending.append(news)
        if not self.deferred:
            self._read()

    def _read(self, wait: bool = False) -> None:
        while self._pending:
            event = self._pending[0].sent.event
            if event is not None and not event.query():
                if not wait:
                    return
                event.synchronize()
            news = self._pending.popleft()
            if isinstance(news, StepNews):
                self._judge(news)
            elif (error := news.error()) is not None:
                self._cause = self._cause or error
                if not self.skip:
                    self._stop(error)

    def _judge(self, news: StepNews) -> None:
        cause, self._cause = self._cause, None
        if not news.bad:
            self._in_a_row = 0
        elif (error := cause or news.error()) is not None:
            self._in_a_row += 1
            if self._in_a_row > self.skip:
                self._stop(in_a_row(error, self._in_a_row))
            self._tell(error)

    def _stop(self, error: NonFiniteError) -> NoReturn:
        self._pending.clear()  # what came after it is NaN because of it
        self._ids.clear()
        self._cause, self._in_a_row = None, 0
        raise error

    def _tell(self, error: NonFiniteError) -> None:
        """The first, the second, the fourth, the eighth: a log is to be read."""
        self._told += 1
        if self._told & (self._told - 1) == 0:
            rank_zero_warn(f"{error.where} is left out ({self._told} so far): {error.found}")


def on_accelerator(device: torch.device) -> bool:
    """Whether to read a value there is to wait for it."""
    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and device.type == accelerator.type


def _place(trainer: Trainer) -> str:
    return f"epoch {trainer.current_epoch}, step {trainer.global_step}"
