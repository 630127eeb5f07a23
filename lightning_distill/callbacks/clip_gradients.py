"""Gradient clipping dropped into a LightningModule that knows nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_distill.clipper import GradientClipper
from lightning_distill.clipping import ClipRule
from lightning_distill.errors import ConfigError


class ClipGradients(Callback):
    """Clips the gradients of any LightningModule by a rule, under automatic and manual optimization.

        Trainer(callbacks=[ClipGradients(ValueClip(0.01))]).fit(MyModule(), data)

    It acts in `on_before_optimizer_step`, where gradients are averaged, accumulated and unscaled, also in
    manual optimization, where Lightning never asks the module to clip. What the rule remembers is kept in
    the checkpoint, as the callback's state. Logs `clip/<name>` every `log_every_n_steps`.

    Args:
        rule: A rule; with several optimizers one for each, in their order.

    Raises:
        ConfigError: Before training, if the Trainer clips too, the strategy does not let anybody clip, or
            one rule that remembers would serve several optimizers.
    """

    def __init__(self, rule: ClipRule | Sequence[ClipRule]) -> None:
        self.rules = [rule] if isinstance(rule, ClipRule) else list(rule)
        self._clippers: dict[int, tuple[str, GradientClipper]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give each optimizer its rule."""
        rules, optimizers = self.rules, trainer.optimizers
        if len(rules) == 1 and not any(True for _ in rules[0].buffers()):
            rules = rules * len(optimizers)
        if len(rules) != len(optimizers):
            raise ConfigError(
                where="ClipGradients.rule",
                found=f"{len(rules)} rule(s) for {len(optimizers)} optimizers",
                expected="one rule for each optimizer; a single one only if it remembers nothing",
                fix="ClipGradients([AutoClip(), AutoClip()]), in the order of configure_optimizers",
            )
        self._clippers = {}
        for number, (optimizer, rule) in enumerate(zip(optimizers, rules, strict=True)):
            clipper = GradientClipper(rule)
            clipper.begin(trainer, pl_module)
            place = "clip" if len(optimizers) == 1 else f"clip/{number}"
            self._clippers[id(getattr(optimizer, "optimizer", optimizer))] = (place, clipper)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Clip."""
        place, clipper = self._clippers[id(optimizer)]
        gradients = clipper.gradients(trainer, optimizer)
        if gradients is None:
            return
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        shown = every > 0 and (trainer.global_step + 1) % every == 0
        values = clipper.clip(trainer, optimizer, gradients, measure=shown)
        if shown:
            pl_module.log_dict({f"{place}/{name}": value for name, value in values.items()})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers."""
        self._clippers = {}

    def state_dict(self) -> dict[str, Any]:
        """What the rules remember."""
        return {"rules": [dict(rule.state_dict()) for rule in self.rules]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        for rule, state in zip(self.rules, state_dict["rules"], strict=True):
            rule.load_state_dict(state)
