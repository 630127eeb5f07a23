"""After a resume, what the configuration says counts, not what the checkpoint remembers."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

_PLAIN = (bool, int, float, str, type(None))


class ConfiguredHyperparameters(Callback):
    """Lets a changed learning rate (or other setting of optimizer, scheduler, early stopping) win on resume.

    Lightning restores the optimizer's state, and with it the hyperparameters of the run that saved it. This
    callback keeps in each checkpoint what was configured at its start, compares on resume, and applies what
    differs. What was not changed is left alone, so that an unchanged resume stays exact. Where a schedule
    has already moved the learning rate, the new one is moved by the same factor.
    """

    def __init__(self) -> None:
        self._now: dict[str, list[Any]] = {}
        self._then: dict[str, list[Any]] = {}
        self._patience: list[tuple[Any, int]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the configured patience; the checkpoint's callbacks are restored after this."""
        self._patience = [(callback, callback.patience) for callback in trainer.early_stopping_callbacks]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember what optimizers and schedulers were made with; their state is restored after this."""
        for callback, patience in self._patience:
            callback.patience = patience
        self._now = {
            "groups": [[_plain(g) for g in o.param_groups] for o in trainer.optimizers],
            "schedulers": [_plain(_state(c.scheduler)) for c in trainer.lr_scheduler_configs],
        }

    def state_dict(self) -> dict[str, Any]:
        """What was configured."""
        return self._now

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What had been configured when the checkpoint was made."""
        self._then = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply what was changed since."""
        then, now = self._then, self._now
        if [len(g) for g in then.get("groups", [])] != [len(g) for g in now["groups"]]:
            return  # not resumed, or another number of parameter groups, which torch refuses by itself
        for optimizer, new, old in zip(trainer.optimizers, now["groups"], then["groups"], strict=True):
            for group, new_values, old_values in zip(optimizer.param_groups, new, old, strict=True):
                _apply(group, new_values, old_values)
        schedulers = [c.scheduler for c in trainer.lr_scheduler_configs]
        if len(then["schedulers"]) != len(schedulers):
            return
        for scheduler, new, old in zip(schedulers, now["schedulers"], then["schedulers"], strict=True):
            changed = _changed(new, old)
            if "_last_lr" in changed:
                changed["_last_lr"] = [group["lr"] for group in scheduler.optimizer.param_groups]
            scheduler.load_state_dict({**_state(scheduler), **changed})


def _apply(group: dict[str, Any], new: dict[str, Any], old: dict[str, Any]) -> None:
    changed = _changed(new, old)
    if "lr" in changed and old.get("lr"):
        changed["lr"] = new["lr"] * float(group["lr"]) / old["lr"]
    group.update({key: tuple(v) if isinstance(v, list) else v for key, v in changed.items()})


def _changed(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in new.items() if key not in old or old[key] != value}


def _state(scheduler: Any) -> dict[str, Any]:
    state: dict[str, Any] = scheduler.state_dict()
    return state


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """What can be compared and stored without pickling classes; tensors (a learning rate, say) as numbers."""
    plain = {}
    for name, value in values.items():
        if name == "params":
            continue
        if hasattr(value, "item") and getattr(value, "numel", lambda: 0)() == 1:
            value = value.item()
        if isinstance(value, tuple):
            value = list(value)
        if isinstance(value, _PLAIN) or (
            isinstance(value, list) and all(isinstance(v, _PLAIN) for v in value)
        ):
            plain[name] = value
    return plain
