"""What a trial of a search needs of its Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lightning_distill.errors import ConfigError

_ONE: Final = ("auto", 1, "1")


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """See that a trial is one process that validates, and leaves a run behind.

    Args:
        trainer: That of the config.

    Raises:
        ConfigError: If it is not.
    """
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    if (devices not in _ONE and not _names_one(devices)) or nodes != 1:
        raise ConfigError(
            where="trainer.devices",
            found=f"{devices} on {nodes} machines",
            expected="one: each process would choose settings of its own",
            fix="add --trainer.devices 1, or --trainer.devices [1] for the second device",
        )
    if trainer.get("fast_dev_run"):
        raise ConfigError(
            where="trainer.fast_dev_run",
            found=trainer["fast_dev_run"],
            expected="false: it leaves no run and no metrics to choose by",
            fix="leave it out; for a short try take --trials 1 --trainer.max_epochs 1",
        )
    if trainer.get("limit_val_batches") == 0:
        raise ConfigError(
            where="trainer.limit_val_batches",
            found=0,
            expected="validation batches: trials are compared by a metric of theirs",
            fix="leave it out",
        )


def _names_one(devices: Any) -> bool:
    """Whether it is the number of one device, such as `[1]` or "1,"."""
    if isinstance(devices, str):
        named = [part.strip() for part in devices.strip("[] ").split(",")]
        return ("," in devices or "[" in devices) and sum(map(bool, named)) == 1 and named[0].isdecimal()
    return isinstance(devices, list) and len(devices) == 1 and devices[0] != -1
