"""Gradient clipping dropped into a LightningModule that knows nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_distill.clipper import GradientClipper
from lightning_distill.clipping import ClipRule
from lightning_distill.errors import CheckpointError, ConfigError
from lightning_distill.guards.finite import FiniteCheck, on_accelerator


class ClipGradients(Callback):
    """Clips the gradients of any LightningModule by a rule, under automatic and manual optimization.

        Trainer(callbacks=[ClipGradients(ValueClip(0.01))]).fit(MyModule(), data)

    It acts in `on_before_optimizer_step`, where gradients are averaged, accumulated and unscaled, also in
    manual optimization, where Lightning never asks the module to clip. What the rule remembers is kept in
    the checkpoint, as the callback's state. Logs `clip/<name>` every `log_every_n_steps`, under
    `clip/<number>/` where there are several optimizers. Schedules follow `trainer.global_step`, which counts
    the steps of all optimizers. Gradients are looked at before a rule edits any: who wants a step that is not
    finite left out, or let through, puts `SkipNonFinite` or `PropagateNonFinite` around the rule.

    Args:
        rule: A rule; with several optimizers one for each, in their order.

    Raises:
        ConfigError: Before training, if the Trainer or the module's own clip rule clips too, the strategy
            does not let anybody clip, or one rule that remembers would serve several optimizers.
        CheckpointError: On resuming, if the rules are others than before.
        NonFiniteError: If a gradient is NaN or infinite, unless a guard is around the rule or a loss scaler
            looks; on an accelerator at the end of the epoch at the latest.
    """

    def __init__(self, rule: ClipRule | Sequence[ClipRule]) -> None:
        self.rules = [rule] if isinstance(rule, ClipRule) else list(rule)
        self._clippers: dict[int, tuple[str, GradientClipper]] = {}
        self._finite = FiniteCheck(deferred=False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give each optimizer its rule."""
        if isinstance(getattr(pl_module, "clip_rule", None), ClipRule):
            raise ConfigError(
                where="ClipGradients",
                found=f"a {type(pl_module).__name__} that has a clip_rule of its own",
                expected="one of the two",
                fix="remove the callback, or the module's clip_rule; `ClipChain` applies several rules",
            )
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
        self._clippers, self._finite = {}, FiniteCheck(on_accelerator(pl_module.device))
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
        if clipper.overflow is None and not clipper.guarded:
            self._finite.gradients(gradients)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        # As Lightning decides it: global_step counts the steps of all optimizers.
        shown = every > 0 and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0
        values = clipper.clip(trainer, optimizer, gradients, measure=shown)
        if shown:
            pl_module.log_dict({f"{place}/{name}": value for name, value in values.items()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let nobody keep to himself what he has found."""
        self._finite.settle()
        for _, clipper in self._clippers.values():
            clipper.settle()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers."""
        self._clippers = {}

    def state_dict(self) -> dict[str, Any]:
        """What the rules remember."""
        return {"rules": [dict(rule.state_dict()) for rule in self.rules]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        saved = state_dict["rules"]
        if len(saved) != len(self.rules):
            raise _foreign(f"a checkpoint of {len(saved)} rule(s)", f"{len(self.rules)}")
        for rule, state in zip(self.rules, saved, strict=True):
            try:
                rule.load_state_dict(state)
            except RuntimeError as error:  # torch's, about names and shapes
                raise _foreign(str(error), f"what {type(rule).__name__} remembers") from error


def _foreign(found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        where="state of ClipGradients",
        found=found,
        expected=expected,
        fix="give the rules, with the arguments, of the run that is resumed",
    )
