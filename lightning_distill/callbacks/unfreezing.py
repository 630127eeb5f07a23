"""Parts of the student that start to learn later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from itertools import chain
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_distill import checks
from lightning_distill.errors import ConfigError
from lightning_distill.extraction import find_module
from lightning_distill.ranks import average_gradients


class GradualUnfreezing(Callback):
    """Freezes parts of the student and lets each learn from its epoch on.

    A frozen part has no gradient and is in eval mode, so that neither weights nor batch statistics move. All
    parts are in the optimizer from the start: its groups and schedules stay as they are, and what is frozen
    follows from the epoch alone, which makes a resumed run equal to one that went on.

        callbacks:
          - class_path: lightning_distill.callbacks.GradualUnfreezing
            init_args: {schedule: {1: [fusion], 3: [encoders.text, encoders.image]}}

    Args:
        schedule: Epoch, counted from 0 -> paths of modules that learn from then on. They are those of the
            LightningModule's `student`, or of the LightningModule where it has none.

    Raises:
        ConfigError: If an epoch is negative or a path named twice; at setup, if a path names no module or the
            strategy shards parameters.

    Source: Howard and Ruder, ULMFiT (1801.06146), section 3.3, where one layer more is unfrozen each epoch.
    """

    def __init__(self, schedule: dict[int, list[str]]) -> None:
        paths = list(chain.from_iterable(schedule.values()))
        if any(epoch < 0 for epoch in schedule) or len(paths) != len(set(paths)):
            raise ConfigError(
                where="GradualUnfreezing.schedule",
                found=schedule,
                expected="epochs of 0 or more, each path once",
                fix="for example {1: [encoders.image.backbone.layer4], 2: [encoders.image]}",
            )
        self.schedule = dict(sorted(schedule.items()))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze, before DDP notes who has gradients, yet let the optimizer be made with all."""
        if stage != "fit":
            return
        if checks.shards(trainer):
            raise ConfigError(
                where="GradualUnfreezing",
                found=f"{type(trainer.strategy).__name__}, which fixes at the start what is trained",
                expected="a strategy that does not shard parameters",
                fix="use `ddp`",
            )
        self._set(pl_module, 0)
        pl_module.configure_optimizers = self._with_all(pl_module)  # type: ignore[method-assign]

    def _with_all(self, pl_module: LightningModule) -> Callable[[], Any]:
        configure = pl_module.configure_optimizers

        @wraps(configure)
        def with_all() -> Any:
            self._set(pl_module, max(self.schedule, default=0))
            made = configure()
            self._set(pl_module, 0)
            return made

        return with_all

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module as it was."""
        vars(pl_module).pop("configure_optimizers", None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let those learn whose epoch has come: a resumed run may begin in the middle of one."""
        self._set(pl_module, trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let those learn whose epoch has come."""
        self._set(pl_module, trainer.current_epoch)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Average over processes what was frozen when DDP noted who has gradients."""
        late = [part for epoch, part in self._parts(pl_module) if epoch > 0]
        found = dict.fromkeys(chain.from_iterable(part.parameters() for part in late))
        average_gradients(p for p in found if p.requires_grad)

    def _parts(self, pl_module: LightningModule) -> Iterator[tuple[int, nn.Module]]:
        root = getattr(pl_module, "student", pl_module)
        return (
            (e, find_module(root, path, "student")) for e, paths in self.schedule.items() for path in paths
        )

    def _set(self, pl_module: LightningModule, epoch: int) -> None:
        # The later ones first: a part of a part that is still frozen may learn already.
        for first, part in sorted(self._parts(pl_module), key=lambda pair: -pair[0]):
            part.train(epoch >= first)
            part.requires_grad_(epoch >= first)
