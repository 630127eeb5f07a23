"""Says in plain words when a clip rule does nothing, does everything, or is undone by the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor
from torch.optim import NAdam, Optimizer, RAdam
from torch.optim.adam import Adam
from torch.optim.adamax import Adamax

from lightning_distill.errors import ConfigError
from lightning_distill.telemetry.streaks import Streak, Streaks

_ALL: Final = 0.99
"""Share of entries from which on a rule clips "all": what is left are entries too small to matter."""
_EVEN: Final = 0.98
"""Evenness from which on entries have one size. Normal ones have 0.64, uniform ones 0.75."""
_TURNED: Final = 1e-4
"""1 - cosine below which a rule has only rescaled: above float32's rounding, far below what clipping does."""
_STEADY: Final = 1.05
"""Largest over smallest coefficient that Adam's moving averages follow as if it were constant."""
_SATURATED: Final = 0.8
"""Share of a feature's entries. At 0.05 a range is as usual; at 0.8 four of five entries teach nothing."""
_FEWEST_LOOKS: Final = 4
"""One or two log steps can be chance."""
_EVERY_LOOK: Final = 20
"""A rule that clips nine steps of ten by design, as `AutoClip` does, binds at each of 4 looks in two runs of
three, and at each of 20 in one of eight."""
_NEVER: Final = 5
"""A rule may wait for rare spikes, so that "never" takes so many times the patience."""

_READ: Final = (
    "clipped_share",
    "zero_share",
    "norm_before",
    "norm_after",
    "cosine",
    "evenness",
    "saturated_share",
    "boundary_share",
)
_ADAMS: Final = (Adam, NAdam, RAdam, Adamax)
"""AdamW is a kind of Adam."""


class ClipWatch:
    """Reads what is logged of clipping and tells, once for each group, what is wrong with the range.

    Groups of which the same is to be told at one look share a line.

    Told is what has held at every log step for `patience` steps:

    - All entries that could be clipped are, and have one size: the step is sign descent.
    - The rule has not changed one entry since the watch began (5 times the patience).
    - The rule rescales by a nearly constant factor, and the optimizer is of Adam's kind, which divides such a
      factor out again. With weight decay inside the gradient it does not.
    - The rule rescales, whatever the factor, at every look since the watch began, of which there must be 20.
      Where the line above has been told, this one is not.
    - 80 % of a clipped feature's entries other than 0 are saturated.
    - All of the gradient that reaches an encoder is clipped at its boundary.

    It is not kept in checkpoints: after a resume it watches anew.

    Args:
        patience: Optimizer steps.

    Raises:
        ConfigError: If patience is not positive.

    >>> watch, sgd = ClipWatch(patience=30), torch.optim.SGD([torch.zeros(1)])
    >>> for step in range(0, 40, 10):
    ...     told = watch.look({"saturated_share/audio": torch.tensor(0.9)}, step, sgd)
    >>> told[0][:48]
    'audio: 90 % of the feature has been saturated fo'
    """

    def __init__(self, patience: int = 200) -> None:
        if patience <= 0:
            raise ConfigError(
                where="ClipWatch.patience",
                found=patience,
                expected="a positive number of steps",
                fix="try 200",
            )
        self.patience = patience
        self._bound: set[str] = set()
        self._idle: set[str] = set()
        self._streaks = Streaks()
        self._waiting: tuple[int, list[str], Tensor, torch.Event] | None = None

    def look(self, values: Mapping[str, Tensor], step: int, optimizer: Optimizer) -> list[str]:
        """Take in what is logged at one step.

        Args:
            values: What `GradientTelemetry.after` gives, and feature clips' `saturated_share` and
                `boundary_share`, bare or with `/<modality>`; other names are passed over. 0-d, all on one
                device. On an accelerator they are read at the next call, so that nothing waits.
            step: Optimizer steps taken.
            optimizer: What steps with these gradients.

        Returns:
            Warnings to show, mostly none.
        """
        names = [name for name in values if name.split("/")[0] in _READ]
        if not names:
            return []
        stacked = torch.stack([values[name].detach().float() for name in names])
        if stacked.device.type == "cpu":
            return self._judge(step, dict(zip(names, stacked.tolist(), strict=True)), optimizer)
        before, event = self._waiting, torch.Event(stacked.device.type)
        host = stacked.to("cpu", non_blocking=True)
        event.record()
        self._waiting = (step, names, host, event)
        if before is None:
            return []
        then, names, host, event = before
        event.synchronize()
        return self._judge(then, dict(zip(names, host.tolist(), strict=True)), optimizer)

    def _judge(self, step: int, found: Mapping[str, float], optimizer: Optimizer) -> list[str]:
        told: dict[str, list[str]] = {}
        for name, value in found.items():
            kind, _, group = name.partition("/")
            said: list[str] = []
            if kind == "saturated_share":
                said = [self._saturated(group, value, step)]
            elif kind == "boundary_share":
                said = [self._bounded(group, value, step)]
            elif kind == "clipped_share":
                seen = {kind: found.get(f"{kind}/{group}", math.nan) for kind in _READ}
                said = [self._signs(group, seen, step, optimizer), self._never(group, value, step)]
                said += [self._cancelled(group, seen, step, optimizer), self._always(group, seen, step)]
            for line in filter(None, said):
                told.setdefault(line, []).append(group or "fused feature")
        return [f"{', '.join(groups)}: {line}" for line, groups in told.items()]

    def _signs(self, group: str, seen: Mapping[str, float], step: int, optimizer: Optimizer) -> str:
        share = seen["clipped_share"] / max(1 - seen["zero_share"], 1e-12)
        holds = share >= _ALL and seen["evenness"] >= _EVEN and seen["cosine"] < 1 - _TURNED
        streak = self._lasting("signs", group, holds, min(share, 1.0), step)
        if streak is None:
            return ""
        effect = (
            "an optimizer of Adam's kind divides the range out, so that a smaller one changes nothing"
            if isinstance(optimizer, _ADAMS)
            else "each entry steps by learning rate times range, whatever its gradient"
        )
        return (
            f"{100 * streak.low:.0f} % of the entries that are not 0 have been clipped for "
            f"{streak.steps} steps. With this range the step is sign descent: {effect}. Raise the range "
            "(epsilon), or keep it if that is what you want."
        )

    def _never(self, group: str, share: float, step: int) -> str:
        if share != 0:
            self._bound.add(group)
        streak = self._lasting("never", group, group not in self._bound, share, step, _NEVER)
        if streak is None:
            return ""
        return (
            f"the clip rule has not bound once in {streak.steps} steps, as far as {streak.looks} "
            "looks at a sample of the entries tell. Remove it or lower the range, unless it waits for rare "
            "spikes."
        )

    def _cancelled(self, group: str, seen: Mapping[str, float], step: int, optimizer: Optimizer) -> str:
        rescaled, ratio = _ratio_if_rescaled(seen)
        self._streaks.restart_if_wider("cancelled", group, ratio, _STEADY)
        streak = self._lasting("cancelled", group, rescaled and _divides_out(optimizer), ratio, step)
        if streak is None:
            return ""
        self._streaks.silence("always", group)
        middle, half = (streak.low + streak.high) / 2, (streak.high - streak.low) / 2
        return (
            f"{type(optimizer).__name__} cancels a constant rescaling, and the clip coefficient has "
            f"been nearly constant (c = {middle:.3g} +- {half:.1g}) for {streak.steps} steps: the update is "
            "as without the rule. Raise the range so that it binds on outliers only; for smaller steps, "
            "lower the learning rate."
        )

    def _always(self, group: str, seen: Mapping[str, float], step: int) -> str:
        rescaled, ratio = _ratio_if_rescaled(seen)
        if not rescaled and not math.isnan(ratio):
            self._idle.add(group)
        holds = rescaled and group not in self._idle
        streak = self._lasting("always", group, holds, ratio, step, looks=_EVERY_LOOK)
        if streak is None:
            return ""
        return (
            f"the rule binds at every step, as far as {streak.looks} looks in {streak.steps} steps tell: "
            "these are steps of normalised length. Raise the range to hold outliers only, or keep it if that "
            "is what you want."
        )

    def _bounded(self, group: str, share: float, step: int) -> str:
        streak = self._lasting("bounded", group, share >= _ALL, share, step)
        if streak is None:
            return ""
        return (
            f"all of what flows back{' into the encoder' if group else ''} has been clipped for "
            f"{streak.steps} steps, so that it arrives as signs of one size. Raise the range (epsilon) of "
            "`BoundaryClip`, or keep it if that is what you want."
        )

    def _saturated(self, group: str, share: float, step: int) -> str:
        streak = self._lasting("saturated", group, share >= _SATURATED, share, step)
        if streak is None:
            return ""
        return (
            f"{100 * streak.low:.0f} % of the feature has been saturated for {streak.steps} steps. "
            "Under a hard clip these entries have no gradient: raise the range (epsilon), give it in units "
            "of the feature's standard deviation, or use a clip that lets gradients back inside."
        )

    def _lasting(
        self,
        kind: str,
        group: str,
        holds: bool,
        value: float,
        step: int,
        patience: int = 1,
        looks: int = _FEWEST_LOOKS,
    ) -> Streak | None:
        return self._streaks.lasting(kind, group, holds, value, step, patience * self.patience, looks)


def _ratio_if_rescaled(seen: Mapping[str, float]) -> tuple[bool, float]:
    """Whether a rule has only shortened, and |g'| / |g|; NaN where there is no g."""
    ratio = seen["norm_after"] / seen["norm_before"] if seen["norm_before"] else math.nan
    return seen["cosine"] >= 1 - _TURNED and 0 < ratio < 1 - _TURNED, ratio


def _divides_out(optimizer: Optimizer) -> bool:
    """Whether a constant factor of the gradient leaves no trace in the update."""
    decayed = any(
        group.get("weight_decay") and not group.get("decoupled_weight_decay")
        for group in optimizer.param_groups
    )
    return isinstance(optimizer, _ADAMS) and not decayed
