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
    has already moved the learning rate, the new one is moved by the same factor. A checkpoint made without
    it is compared by what it holds: under a schedule, by the learning rate the schedule started from.
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
        if trainer.ckpt_path is None:
            return
        now = self._now
        then = self._then or self._guess(trainer)
        if [len(g) for g in then.get("groups", [])] != [len(g) for g in now["groups"]]:
            return  # torch itself refuses another number of parameter groups
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

    def _guess(self, trainer: Trainer) -> dict[str, list[Any]]:
        """What was configured for a checkpoint that was made without this callback."""
        groups = [[_plain(g) for g in o.param_groups] for o in trainer.optimizers]
        if not trainer.lr_scheduler_configs:
            return {"groups": groups, "schedulers": []}
        # A schedule has moved what it schedules: only the rate it started from is known.
        then = [
            [_started_from(old, new) for old, new in zip(restored, made, strict=True)]
            for restored, made in zip(groups, self._now["groups"], strict=True)
        ]
        rates = [group["initial_lr"] for group in then[0] if "initial_lr" in group]
        known = {"base_lrs": rates, "_last_lr": [group["lr"] for group in then[0]]}
        schedulers = [{**s, **{k: v for k, v in known.items() if k in s}} for s in self._now["schedulers"]]
        return {"groups": then, "schedulers": schedulers}


def _started_from(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    if not (old.get("initial_lr") and new.get("initial_lr")):
        return new
    moved = old["initial_lr"] / new["initial_lr"]
    return {**new, "lr": new["lr"] * moved, "initial_lr": old["initial_lr"]}


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
