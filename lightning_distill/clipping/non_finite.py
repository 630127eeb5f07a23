"""Guards: what a clip rule does about gradients with entries that are NaN or infinite."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from lightning_distill.clipping.base import ClipReport, ClipRule
from lightning_distill.errors import NonFiniteError
from lightning_distill.gradients import Gradients, counted, non_finite

_NAMED: Final = 5


class NonFiniteGuard(ClipRule):
    """Looks at every entry of every gradient before a rule edits any.

    Args:
        rule: The rule to guard.
    """

    def __init__(self, rule: ClipRule) -> None:
        super().__init__()
        self.rule = rule

    def edit(self, gradients: Gradients) -> ClipReport:
        """Look, then let the rule edit."""
        flags = non_finite(gradients)
        if flags.device.type != "cpu":
            return self.edit_unseen(gradients, flags)
        if flags.any():
            return self.refuse(gradients, flags)
        return self.rule.edit(gradients)

    @abstractmethod
    def refuse(self, gradients: Gradients, flags: Tensor) -> ClipReport:
        """What to do on the CPU in a step that is not finite.

        Args:
            gradients: As they came.
            flags: bool "tensors": which gradients have such entries; at least one.
        """

    @abstractmethod
    def edit_unseen(self, gradients: Gradients, flags: Tensor) -> ClipReport:
        """Edit on an accelerator, which is not asked whether the step is finite.

        Args:
            gradients: As they came.
            flags: bool "tensors": which gradients have such entries, if any.
        """

    def _edit_holding_history(self, gradients: Gradients, bad: Tensor) -> ClipReport:
        """Let the rule edit, but keep its history where the step is bad."""
        before = [(buffer, buffer.clone()) for buffer in self.rule.buffers()]
        report = self.rule.edit(gradients)
        for buffer, old in before:
            buffer.copy_(torch.where(bad.to(buffer.device), old, buffer))
        return report


class SkipNonFinite(NonFiniteGuard):
    """If any entry is NaN or infinite: no clip, no optimizer step. Otherwise the rule.

    `ClipReport.skip` says whether; `DistillationModule` then leaves the step out, a loop of your own must
    look at it. On the CPU gradients and the rule's history stay untouched. On an accelerator, which is not
    asked, gradients are edited all the same, since the step is not taken; history stays.

    Args:
        rule: The rule to guard.

    Source: the non-finite check of dynamic loss scaling, Micikevicius et al., Mixed Precision Training
    (1710.03740), section 3.2, here for any precision.

    >>> from lightning_distill.clipping.value import ValueClip
    >>> w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, torch.inf])
    >>> SkipNonFinite(ValueClip(1.0)).clip([w]).skip.item(), w.grad.tolist()
    (True, [3.0, inf])
    """

    def edit(self, gradients: Gradients) -> ClipReport:
        """Look, then let the rule edit; the report says whether to skip."""
        report = super().edit(gradients)
        if report.skip is not None:
            return report
        return ClipReport(report.values, torch.zeros((), dtype=torch.bool, device=gradients.device))

    def refuse(self, gradients: Gradients, flags: Tensor) -> ClipReport:
        """Nothing but the report."""
        return ClipReport(skip=torch.ones((), dtype=torch.bool))

    def edit_unseen(self, gradients: Gradients, flags: Tensor) -> ClipReport:
        """Edit, and report whether to skip."""
        bad = flags.any()
        report = self._edit_holding_history(gradients, bad)
        return ClipReport(report.values, bad if report.skip is None else bad | report.skip)


class PropagateNonFinite(NonFiniteGuard):
    """If any entry is NaN or infinite: gradients stay exactly as they are. Otherwise the rule.

    For those who look themselves: a loss scaler, or a check of the weights. On an accelerator, which is not
    asked, a copy of all gradients is held meanwhile; `SkipNonFinite` needs none.

    Args:
        rule: The rule to guard.

    Source: the default of torch's `clip_grad_norm_`, `error_if_nonfinite=False`, which differs: it edits,
    and where one entry is infinite it becomes NaN and all others zero.

    >>> from lightning_distill.clipping.value import ValueClip
    >>> w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, torch.inf])
    >>> report = PropagateNonFinite(ValueClip(1.0)).clip([w])
    >>> w.grad.tolist()
    [3.0, inf]
    """

    def refuse(self, gradients: Gradients, flags: Tensor) -> ClipReport:
        """Nothing."""
        return ClipReport()

    def edit_unseen(self, gradients: Gradients, flags: Tensor) -> ClipReport:
        """Edit, and put back what was there."""
        bad = flags.any()
        before = [grad.clone() for grad in gradients.local]
        report = self._edit_holding_history(gradients, bad)
        for grad, old in zip(gradients.local, before, strict=True):
            grad.copy_(torch.where(bad.to(grad.device), old, grad))
        return report


class _Look(NamedTuple):
    """One step's flags on their way to the host."""

    step: int
    names: tuple[str, ...]
    flags: Tensor
    arrived: torch.Event


class RaiseNonFinite(NonFiniteGuard):
    """If any entry is NaN or infinite: an error that names the tensors. Otherwise the rule.

    On the CPU nothing is edited, and the error counts the entries of this process. An accelerator is not made
    to wait: the step is reported as one to skip, as by `SkipNonFinite`, and the error comes in one of the
    next steps, or in `settle`, which a loop of your own must call after its last.

    Args:
        rule: The rule to guard.

    Raises:
        NonFiniteError: In `clip` or `settle`.

    Source: torch's `clip_grad_norm_` with `error_if_nonfinite=True`, which looks at the norm: it names no
    tensor, and also refuses finite gradients whose norm overflows.

    >>> from lightning_distill.clipping.value import ValueClip
    >>> w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, torch.inf])
    >>> RaiseNonFinite(ValueClip(1.0)).clip({"w": w})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lightning_distill.errors.NonFiniteError: gradients at step 0: found 'w' (0 NaN, 1 infinite of 2); ...
    """

    def __init__(self, rule: ClipRule) -> None:
        super().__init__(rule)
        self._pending: deque[_Look] = deque()

    def __getstate__(self) -> dict[str, Any]:
        """A copy waits for no news of the original's steps."""
        return {**self.__dict__, "_pending": deque()}

    def refuse(self, gradients: Gradients, flags: Tensor) -> ClipReport:
        """Raise."""
        at = [i for i, flag in enumerate(flags.tolist()) if flag]
        found = [counted(gradients.names[i], gradients.local[i]) for i in at[:_NAMED]]
        raise _error(gradients.step, found, len(at))

    def edit_unseen(self, gradients: Gradients, flags: Tensor) -> ClipReport:
        """Edit, report whether to skip, and raise if an earlier step was not finite."""
        self._read(wait=False)
        bad = flags.any()
        report = self._edit_holding_history(gradients, bad)
        host = flags.to("cpu", non_blocking=True)
        arrived = torch.Event(flags.device)
        arrived.record()
        self._pending.append(_Look(gradients.step, gradients.names, host, arrived))
        return ClipReport(report.values, bad if report.skip is None else bad | report.skip)

    def settle(self) -> None:
        """Wait for the news of every step.

        Raises:
            NonFiniteError: If gradients of one of them were not finite.
        """
        self._read(wait=True)

    def _read(self, wait: bool) -> None:
        while self._pending and (wait or self._pending[0].arrived.query()):
            look = self._pending.popleft()
            if wait:
                look.arrived.synchronize()
            at = [i for i, flag in enumerate(look.flags.tolist()) if flag]
            if at:
                self._pending.clear()
                raise _error(look.step, [repr(look.names[i]) for i in at[:_NAMED]], len(at))


def _error(step: int, found: list[str], tensors: int) -> NonFiniteError:
    more = f" and {tensors - len(found)} more" if tensors > len(found) else ""
    return NonFiniteError(
        where=f"gradients at step {step}",
        found=", ".join(found) + more,
        expected="finite entries; no step was taken with these",
        fix="lower the learning rate, look at the loss of that step, or guard with SkipNonFinite instead",
    )
