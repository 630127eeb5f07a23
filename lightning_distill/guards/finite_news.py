"""What a step tells of its losses and gradients, on its way from an accelerator, and in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lightning_distill.errors import NonFiniteError
from lightning_distill.gradients import counted
from lightning_distill.guards.origin import Origin
from lightning_distill.structures import Batch

SAID: Final = "the teacher's logits"
_TENSORS: Final = 5
_SAMPLES: Final = 8


class Sent(NamedTuple):
    """Values on their way to the host.

    Attributes:
        values: On the host; they mean nothing before they have arrived.
        event: Happens when they have; None where they are there.
    """

    values: Tensor
    event: torch.Event | None

    @classmethod
    def off(cls, values: Tensor, wait: bool) -> Sent:
        """Send them.

        Args:
            values: On any device.
            wait: Until they have arrived.
        """
        host = values.to("cpu", non_blocking=not wait)
        if wait or values.device.type == "cpu":
            return cls(host, None)
        event = torch.Event(values.device)
        event.record()
        return cls(host, event)


class LossNews(NamedTuple):
    """Of one batch.

    Attributes:
        sent: The loss and the terms.
        names: Of the terms.
        batch: What they are of.
        where: Epoch and step.
        number: Of the batch in its epoch.
        deferred: Whether the step was taken before this was read.
        origin: Finds out where it began; None where nobody can.
    """

    sent: Sent
    names: tuple[str, ...]
    batch: Batch
    where: str
    number: int
    deferred: bool
    origin: Callable[[], Origin] | None

    def error(self) -> NonFiniteError | None:
        """What is wrong, if anything."""
        loss, *values = self.sent.values.tolist()
        terms = dict(zip(self.names, values, strict=True))
        if math.isfinite(loss) and math.isfinite(terms.get(SAID, 0.0)):
            return None
        culprits = {name: value for name, value in terms.items() if not math.isfinite(value)}
        origin = Origin((), None) if self.origin is None else self.origin()
        began = f"; first not finite: {', '.join(origin.places)}" if origin.places else ""
        ids: Tensor = self.batch["sample_id"]
        ids = ids if origin.rows is None else ids[origin.rows.to(ids.device)]
        return NonFiniteError(
            where=self.where,
            found=f"loss {loss} from terms {culprits or terms}{began}; batch {self.number}, "
            + _samples([ids]),
            expected="a finite loss; the weights "
            + (
                "have been updated with it, those of the last checkpoint have not"
                if self.deferred
                else "are those of the step before"
            ),
            fix="lower the learning rate, add a clip rule, look at those samples, or let skip_non_finite"
            " leave such steps out",
        )


class StepNews(NamedTuple):
    """Of the gradients of one optimizer step.

    Attributes:
        sent: bool: which gradients are not finite; of a loss scaler, whether any is.
        names: Of the gradients; None where a loss scaler has looked at them.
        local: As they came; empty where they are not to be kept.
        ids: Of the samples.
        where: Epoch and step.
        deferred: Whether the step was taken before this was read.
    """

    sent: Sent
    names: tuple[str, ...] | None
    local: tuple[Tensor, ...]
    ids: tuple[Tensor, ...]
    where: str
    deferred: bool

    @property
    def bad(self) -> bool:
        """Whether any gradient was not finite."""
        return bool(self.sent.values.any())

    def error(self) -> NonFiniteError | None:
        """What is wrong; nothing where the loss scaler cares for it."""
        if self.names is None:
            return None
        at = [i for i, flag in enumerate(self.sent.values.tolist()) if flag]
        names = [(self.names[i], self.local[i] if self.local else None) for i in at[:_TENSORS]]
        found = [repr(name) if grad is None else counted(name, grad) for name, grad in names]
        more = f" and {len(at) - _TENSORS} more" if len(at) > _TENSORS else ""
        return NonFiniteError(
            where=self.where,
            found=f"the loss is finite, the gradients of {', '.join(found)}{more} are not; "
            + _samples(self.ids),
            expected="finite gradients; the weights "
            + (
                "may have been updated with them, those of the last checkpoint have not"
                if self.deferred
                else "are those of the step before"
            ),
            fix="look at those samples and at roots, logarithms and divisions in that part, or let"
            " skip_non_finite leave such steps out",
        )


def _samples(ids: Sequence[Tensor]) -> str:
    listed = [number for part in ids for number in part.tolist()]
    more = f" and {len(listed) - _SAMPLES} more" if len(listed) > _SAMPLES else ""
    return f"samples {listed[:_SAMPLES]}{more}" if listed else "samples unknown"


def in_a_row(error: NonFiniteError, steps: int) -> NonFiniteError:
    """The error of the last of several steps, of which all but this were left out.

    Args:
        error: Of that step.
        steps: How many, with it.
    """
    if steps == 1:
        return error
    return NonFiniteError(
        where=error.where,
        found=f"{steps} steps in a row that are not finite; this one: {error.found}",
        expected=error.expected,
        fix="look at those samples, lower the learning rate, or allow more with skip_non_finite",
    )
