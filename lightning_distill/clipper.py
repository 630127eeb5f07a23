"""A clip rule at work in Lightning: at the right moment, on unscaled gradients, in every mode."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer

from lightning_distill.clipping import ClipRule, NonFiniteGuard, RaiseNonFinite
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients, gradients_of
from lightning_distill.telemetry import ClipWatch, GradientTelemetry

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_WRAPPERS = re.compile(r"^student\.|_fsdp_wrapped_module\.|_orig_mod\.")
"""What stands in a parameter's name beside the path in the model."""


class GradientClipper:
    """Brings a rule the gradients one optimizer is about to step with, and obeys what it says.

    The one place that knows of Lightning: the hook `configure_gradient_clipping`, the hook
    `on_before_optimizer_step` (manual optimization, where Lightning never calls the former) and the callback
    for modules of others all come here. It unscales what Lightning leaves scaled (fused optimizers under
    16-mixed), leaves a step alone that the loss scaler is about to skip, and lets no step be taken that the
    rule wants skipped.

    Args:
        rule: What clips; None where gradients are only to be looked up.
    """

    def __init__(self, rule: ClipRule | None) -> None:
        self.rule = rule
        parts = [] if rule is None else list(rule.modules())
        self._raising = [part for part in parts if isinstance(part, RaiseNonFinite)]
        self.guarded = any(isinstance(part, NonFiniteGuard) for part in parts)
        """Whether the rule looks by itself at what is not finite."""
        self.overflow: Tensor | None = None
        """What the loss scaler has found in this step, above 0 where gradients overflow; None without one."""
        self._names: dict[int, str] = {}
        self._telemetry = GradientTelemetry()
        self._watch = ClipWatch()
        self._skipped: Tensor | float = 0.0
        self._split: Any = None

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Learn the parameters' names; those of a student are without "student.".

        Args:
            trainer: Before its first step.
            module: What is trained.

        Raises:
            ConfigError: Where Lightning would ignore the rule, or clip a second time.
        """
        if self.rule is not None:
            refuse_to_be_ignored(trainer)
            self.rule.start()
            self.rule.to(module.device)
        self._split = split_group(trainer.strategy.model or module)
        self._names = {id(p): _WRAPPERS.sub("", name) for name, p in module.named_parameters()}

    def gradients(self, trainer: Trainer, optimizer: Optimizer, edited: bool = True) -> Gradients | None:
        """What there is to edit, unscaled; None where there is no gradient, or the scaler skips the step.

        Args:
            trainer: In a step, after the last backward.
            optimizer: About to step.
            edited: Somebody edits them, so that all must be dense and real; else they are only looked at.
        """
        self.overflow = None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        named = [(self._names.get(id(p), f"adaptor.{i}"), p) for i, p in enumerate(parameters)]
        if all(p.grad is None for p in parameters) or self._overflown(trainer, optimizer):
            return None
        at = (trainer.global_step, trainer.current_epoch)
        odd = [] if edited else [(name, p) for name, p in named if p.grad is not None and _is_odd(p.grad)]
        if not odd:
            return gradients_of(named, *at, split_over=self._split)
        plain = [(name, p) for name, p in named if p.grad is None or not _is_odd(p.grad)]
        found = gradients_of(plain, *at, split_over=self._split)
        return replace(
            found,
            names=(*found.names, *(name for name, _ in odd)),
            parameters=(*found.parameters, *(p for _, p in odd)),
            local=(*found.local, *(_entries(p.grad) for _, p in odd)),
        )

    def _overflown(self, trainer: Trainer, optimizer: Optimizer) -> bool:
        """Unscale where Lightning has not; whether the scaler has found an overflow and will skip the step.

        A fused optimizer on an accelerator is asked only where the rule would take the overflow for an error:
        to ask is to wait, and its step does not.
        """
        scaler = scaler_of(trainer)
        if scaler is None or not scaler.is_enabled():
            return False
        if scaler._per_optimizer_states[id(optimizer)]["stage"] is OptState.READY:
            scaler.unscale_(optimizer)
        found = list(scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values())
        if found:
            self.overflow = torch.stack([flag.to(found[0].device).reshape(()) for flag in found]).amax()
        unasked = _fused(optimizer) and not self._raising
        if unasked and any(flag.device.type != "cpu" for flag in found):
            return False
        return any(bool(flag) for flag in found)

    def clip(
        self, trainer: Trainer, optimizer: Optimizer, gradients: Gradients, measure: bool
    ) -> dict[str, Tensor]:
        """Clip, and keep the optimizer from a step the rule wants skipped.

        Args:
            trainer: In the step.
            optimizer: About to step.
            gradients: As `gradients` has found them.
            measure: Also measure, on a sample, what the rule does to each part of the model.

        Returns:
            Name -> 0-d tensor.
        """
        if self.rule is None:
            return {}
        if measure:
            self._telemetry.before(gradients)
        report = self.rule.clip_gradients(gradients)
        values = dict(report.values)
        if report.skip is not None and scaler_of(trainer) is None:  # a scaler leaves out such steps itself
            if hold(optimizer, report.skip):
                rank_zero_warn(f"step {trainer.global_step} is skipped: its gradients are not finite")
            self._skipped = report.skip.float() + self._skipped
            values["skipped_steps"] = self._skipped
        if not measure:
            return values
        measured = self._telemetry.after()
        for line in self._watch.look(measured, trainer.global_step, optimizer):
            rank_zero_warn(line)
        return values | measured

    def settle(self) -> None:
        """Wait for what an accelerator has not told yet of gradients that were not finite.

        Raises:
            NonFiniteError: From a `RaiseNonFinite` among the rules.
        """
        for guard in self._raising:
            guard.settle()


def refuse_to_be_ignored(trainer: Trainer) -> None:
    """Refuse settings under which Lightning would ignore or double a clip rule.

    Raises:
        ConfigError: With the way out.
    """
    if trainer.gradient_clip_val:
        raise ConfigError(
            where="trainer.gradient_clip_val",
            found=f"{trainer.gradient_clip_val} beside a clip rule",
            expected="one of the two",
            fix="remove trainer.gradient_clip_val, or the clip rule; `NormClip` and `ValueClip` are what the"
            " Trainer's own two algorithms do",
        )
    refuse_deepspeed(trainer, "clip rule")


def refuse_two_guards(skip: int, rule: ClipRule | None) -> None:
    """Refuse to let both the module and its rule decide which steps are left out.

    Args:
        skip: How many steps the module may leave out.
        rule: What clips.

    Raises:
        ConfigError: With the way out; also if the number is below 0.
    """
    if skip < 0:
        raise ConfigError(
            where="model.skip_non_finite",
            found=skip,
            expected="a number of optimizer steps, 0 or more",
            fix="0 stops at the first step that is not finite, 10 leaves out up to ten in a row",
        )
    guards = [] if rule is None else [m for m in rule.modules() if isinstance(m, NonFiniteGuard)]
    if skip and guards:
        raise ConfigError(
            where="model.skip_non_finite",
            found=f"{skip} beside the clip rule {type(guards[0]).__name__}",
            expected="one of the two to decide which steps are left out",
            fix=f"take the {type(guards[0]).__name__} from around the rule, or set skip_non_finite: 0",
        )


def refuse_deepspeed(trainer: Trainer, where: str) -> None:
    """Refuse the strategy that lets nobody at its gradients.

    Args:
        trainer: Before its first step.
        where: What wants to edit them.

    Raises:
        ConfigError: With the way out.
    """
    if "deepspeed" in type(trainer.strategy).__name__.lower():
        raise ConfigError(
            where=where,
            found="DeepSpeed, which clips by itself and lets nobody else at its gradients",
            expected="a strategy that lets the module clip",
            fix="use the strategy `fsdp` or `ddp`, or set gradient_clipping in DeepSpeed's own config",
        )


def scaler_of(trainer: Trainer) -> Any:
    """The loss scaler; None without 16-mixed."""
    return getattr(trainer.precision_plugin, "scaler", None)


def _is_odd(grad: Tensor) -> bool:
    return grad.layout is not torch.strided or grad.is_complex()


def _entries(grad: Any) -> Tensor:
    """What is stored of a sparse or complex gradient, as real numbers."""
    if grad.layout is not torch.strided:
        grad = (grad.coalesce() if grad.layout is torch.sparse_coo else grad).values()
    return torch.view_as_real(grad) if grad.is_complex() else grad


def _fused(optimizer: Optimizer) -> bool:
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def hold(optimizer: Optimizer, skip: Tensor) -> bool:
    """Keep the optimizer from stepping, without waiting where it can read a flag on the device.

    Args:
        optimizer: About to step, without a loss scaler.
        skip: bool 0-d.

    Returns:
        Whether it is known to be kept.
    """
    if skip.device.type != "cpu" and _fused(optimizer):
        optimizer.grad_scale, optimizer.found_inf = None, skip.float()  # type: ignore[attr-defined]
        return False
    if not skip:
        return False
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
    return True


def split_group(model: nn.Module) -> Any:
    """The processes over which FSDP1 splits what looks like plain tensors; None where it does not.

    They need not be all: under HYBRID_SHARD each node has the whole model.

    Args:
        model: As the strategy has wrapped it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    wrapped = FullyShardedDataParallel.fsdp_modules(model)
    if not wrapped or wrapped[0].sharding_strategy is ShardingStrategy.NO_SHARD:
        return None
    return wrapped[0].process_group
