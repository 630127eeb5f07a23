"""Whether a checkpoint is of the run that is to go on from it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor, nn

from lightning_distill.errors import CheckpointError
from lightning_distill.resuming import within_epoch

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_KEY: Final = "run"
_BATCHES: Final = ("batch_size", "processes", "accumulate_grad_batches")
"""What gives a position within an epoch its meaning."""


def note(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Add to a checkpoint which run it is of."""
    checkpoint[_KEY] = _description(trainer)


def check(checkpoint: dict[str, Any], trainer: Trainer, forced: bool) -> None:
    """Refuse a checkpoint from which this run cannot go on as if nothing had happened.

    Args:
        checkpoint: As loaded; if forced, what would be refused later is taken out of it.
        trainer: In `fit`.
        forced: Say so instead, and go on.

    Raises:
        CheckpointError: If the data are others, or the library is older than the checkpoint; and within an
            epoch, if its batches are others.
    """
    then, now = checkpoint.get(_KEY, {}), _description(trainer)
    inside = within_epoch(checkpoint)
    differing = [name for name in now if _differs(name, then.get(name), now[name])]
    refused = [name for name in differing if inside or name not in _BATCHES]
    if refused and not forced:
        raise CheckpointError(
            where=str(trainer.ckpt_path),
            found=f"a checkpoint from {'the middle' if inside else 'the end'} of an epoch of another run: "
            + _told(refused, then, now),
            expected="the same data, and within an epoch the same batches",
            fix="restore what has changed, or "
            + ("go on from the end of an epoch, or " if inside else "")
            + "add --force",
        )
    if not differing:
        return
    rank_zero_warn(f"going on from {trainer.ckpt_path}, though it says {_told(differing, then, now)}")
    if "data" in differing:
        checkpoint.pop(
            type(getattr(trainer, "datamodule", None)).__qualname__, None
        )  # which would refuse them too
    if inside and set(refused) & {"data", *_BATCHES}:
        _begin_epoch_anew(checkpoint)


def misfit(module: nn.Module, state: Mapping[str, Any], where: str) -> CheckpointError:
    """The error of weights that do not fit a module, with the tensors in which they differ."""
    own = module.state_dict()
    lines = [f"{name} is missing" for name in own if name not in state]
    lines += [f"{name} is too many" for name in state if name not in own]
    lines += [
        f"{name} is {_shape(state[name])}, not {_shape(x)}"
        for name, x in own.items()
        if isinstance(x, Tensor) and name in state and _shape(state[name]) != _shape(x)
    ]
    more = f", and {len(lines) - 8} more" if len(lines) > 8 else ""
    return CheckpointError(
        where=where,
        found=f"the weights of another model: {', '.join(lines[:8])}{more}",
        expected="those of this one",
        fix="use the model the checkpoint is of, or start a new run; losses and clip_rule have tensors too",
    )


def _shape(x: Any) -> str:
    return " x ".join(map(str, x.shape)) or "a number"


def _description(trainer: Trainer) -> dict[str, Any]:
    data: Any = getattr(trainer, "datamodule", None)
    return {
        # Not imported: the package names all its modules, and this one is far below most of them.
        "version": sys.modules["lightning_distill"].__version__,
        "data": getattr(getattr(data, "source", None), "fingerprint", ""),
        "batch_size": getattr(data, "batch_size", None),
        "processes": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
    }


def _told(names: list[str], then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_brief(name, then)} then and {_brief(name, now)} now" for name in names)


def _brief(name: str, description: Mapping[str, Any]) -> str:
    value = str(description[name])
    # The start of each part of a fingerprint is enough to see that it is another.
    return "-".join(part[:8] for part in value.split("-")) if name == "data" else value


def _differs(name: str, then: Any, now: Any) -> bool:
    if then in (None, "") or now in (None, ""):
        return False  # they tell nothing
    return _newer(str(then), str(now)) if name == "version" else bool(then != now)


def _newer(then: str, now: str) -> bool:
    """Whether the first of two versions is the newer one.

    >>> _newer("0.10.0", "0.9.1"), _newer("0.9.1", "0.9.1"), _newer("0.9.0", "0.9.1")
    (True, False, False)
    """
    first, second = ([int(n) for n in re.findall(r"\d+", version)[:3]] for version in (then, now))
    return first > second


def _begin_epoch_anew(checkpoint: dict[str, Any]) -> None:
    """A position means nothing among other batches."""
    rank_zero_warn("the epoch begins anew, since its batches are others")
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    batches["is_last_batch"] = False
    total = batches["total"]
    total.update(ready=total["processed"], started=total["processed"], completed=total["processed"])
    batches["current"] = dict.fromkeys(batches["current"], 0)
