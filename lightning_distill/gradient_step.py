"""What happens between the loss and the optimizer's step: a look at the gradients, balancing, clipping."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor
from torch.optim import Optimizer

from lightning_distill.clipper import GradientClipper, hold, refuse_deepspeed, scaler_of
from lightning_distill.clipping import ClipRule
from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping import BoundaryClip
from lightning_distill.gradient_balancing import GradientBalancer, StudentView
from lightning_distill.gradients import Gradients
from lightning_distill.guards.finite import FiniteCheck
from lightning_distill.model import MultimodalModel
from lightning_distill.ranks import alone, average
from lightning_distill.structures import Batch, ModelOutput, labelled_rows, only_rows
from lightning_distill.tasks import Task
from lightning_distill.telemetry import ClipWatch

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_BOUNDARY = re.compile(r"^student\.(?:.*\.)?(?:modality_clips\.([^.]+)|feature_clip)(?:\.|$)")
"""Where a clip of the student stands, with the modality, if it is of one."""


class GradientStep:
    """Balancer and clip rule of one optimizer, with the gradients of single terms in between.

    Args:
        rule: What clips.
        balancer: What balances gradients before.
    """

    def __init__(self, rule: ClipRule | None, balancer: GradientBalancer | None) -> None:
        self._clipper = GradientClipper(rule)
        self._balancer = balancer
        self._rule_remembers = rule is not None and any(True for _ in rule.buffers())
        self._by_term: dict[str, dict[int, Tensor]] = {}
        self._scale: Tensor | None = None
        self._watch = ClipWatch()
        self._boundary_watch = ClipWatch()
        self._boundaries: dict[str, list[BoundaryClip]] = {}

    def begin(self, trainer: Trainer, module: LightningModule, sharded: bool) -> None:
        """Learn names; refuse what cannot work.

        Raises:
            ConfigError: If Lightning would ignore the rule, or gradients of single terms are wanted of a
                student that is split over processes.
        """
        self._clipper.begin(trainer, module)
        self._by_term = {}
        self._boundaries = {}
        for name, part in module.named_modules():
            if isinstance(part, BoundaryClip):
                self._boundaries.setdefault(_share_name(name), []).append(part)
        if self._balancer is not None:
            refuse_deepspeed(trainer, "model.gradient_balancer")
        if self._rule_remembers and len(trainer.optimizers) > 1:
            raise ConfigError(
                where="model.clip_rule",
                found=f"one rule that remembers for {len(trainer.optimizers)} optimizers",
                expected="one history for each",
                fix="leave clip_rule out and give the Trainer a callback ClipGradients([rule, rule])",
            )
        if sharded and self._balancer is not None and self._balancer.per_term_gradients:
            raise ConfigError(
                where="model.gradient_balancer",
                found=f"{type(self._balancer).__name__} with a student that is split over processes",
                expected="a balancer that needs no gradient of each term, since no process has the student"
                " whole",
                fix="use OGMGE or AGM, or the strategy ddp",
            )

    def scale_boundaries(self, trainer: Trainer, shown: bool) -> None:
        """Tell backward clips the factor of the loss, and at a log step to measure; before each forward pass.

        Args:
            trainer: In its training step.
            shown: Whether what they clip is to be logged in this step.
        """
        if self._boundaries:
            scale = loss_scale(trainer)
            for clip in chain.from_iterable(self._boundaries.values()):
                clip.gradient_scale = (1.0 if scale is None else scale) / trainer.accumulate_grad_batches
                clip.clipped_share = torch.zeros((), device=trainer.strategy.root_device) if shown else None

    def watch(self, extras: Mapping[str, Tensor], trainer: Trainer) -> None:
        """Warn of features that stay saturated.

        Args:
            extras: Of the student's answer, at a log step.
            trainer: In its training step.
        """
        for line in self._watch.look(extras, trainer.global_step, trainer.optimizers[0]):
            rank_zero_warn(line)

    def terms(
        self, weighted: Mapping[str, Tensor], view: StudentView, trainer: Trainer | None
    ) -> dict[str, Tensor]:
        """What the balancer makes of the weighted terms; the sum is trained on.

        Args:
            weighted: Name -> weighted term.
            view: Of the batch.
            trainer: In training; None in validation.
        """
        assert self._balancer is not None
        trained = self._balancer.terms(weighted, view)
        if trainer is not None and self._balancer.per_term_gradients:
            self._keep_term_gradients(trained, trainer)
        return trained

    def _keep_term_gradients(self, terms: Mapping[str, Tensor], trainer: Trainer) -> None:
        """Add this batch's gradient of each term to those of the batches before it in the same step."""
        self._scale = loss_scale(trainer)
        groups = trainer.optimizers[0].param_groups
        trained = [p for group in groups for p in group["params"] if p.requires_grad]
        for name, value in terms.items():
            kept = self._by_term.setdefault(name, {})
            if not value.requires_grad:
                continue
            share = value / trainer.accumulate_grad_batches
            loss = share if self._scale is None else share * self._scale
            found = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
            for parameter, grad in zip(trained, found, strict=True):
                if grad is not None:
                    kept[id(parameter)] = kept[id(parameter)] + grad if id(parameter) in kept else grad

    def act(
        self, trainer: Trainer, optimizer: Optimizer, measure: bool, check: FiniteCheck
    ) -> dict[str, Tensor]:
        """See that the gradients are finite, balance, then clip.

        Args:
            trainer: In its hook, after the last backward.
            optimizer: About to step.
            measure: Also measure what the rule does, and tell what backward clips did.
            check: Looks first, unless rule or loss scaler do.

        Returns:
            Name -> 0-d tensor to log.

        Raises:
            NonFiniteError: If gradients are not finite.
        """
        told = self._boundary_shares(trainer, optimizer) if measure else {}
        edited = self._clipper.rule is not None or self._balancer is not None
        gradients = self._clipper.gradients(trainer, optimizer, edited)
        by_term, self._by_term = self._by_term, {}
        left_out = self._looked_at(gradients, trainer, check)
        if gradients is not None and (check.deferred or left_out is None or not left_out):
            told |= self._edit(trainer, optimizer, gradients, by_term, measure)
        check.end_step(left_out)
        if left_out is not None and check.skip and self._clipper.overflow is None:
            hold(optimizer, left_out)
        if measure and (check.skip or self._clipper.overflow is not None):
            told["train/skipped_steps"] = check.left_out
        return told

    def _looked_at(self, gradients: Gradients | None, trainer: Trainer, check: FiniteCheck) -> Tensor | None:
        """Whether the step is to be left out; None where the rule decides, or there is nothing to look at."""
        if self._clipper.overflow is not None:
            return check.overflow(self._clipper.overflow, trainer)
        if gradients is None or self._clipper.guarded:
            return None
        return check.gradients(gradients)

    def _edit(
        self,
        trainer: Trainer,
        optimizer: Optimizer,
        gradients: Gradients,
        by_term: Mapping[str, Mapping[int, Tensor]],
        measure: bool,
    ) -> dict[str, Tensor]:
        told: dict[str, Tensor] = {}
        if self._balancer is not None:
            with torch.no_grad():
                found = self._balancer.balance(gradients, self._beside(gradients, by_term))
            told |= {f"balance/{name}": value for name, value in found.items()}
        clipped = self._clipper.clip(trainer, optimizer, gradients, measure)
        return told | {f"clip/{name}": value for name, value in clipped.items()}

    def _boundary_shares(self, trainer: Trainer, optimizer: Optimizer) -> dict[str, Tensor]:
        """What the last backward pass left in the student's backward clips; of a chain, the largest."""
        told: dict[str, Tensor] = {}
        for name, clips in self._boundaries.items():
            shares = [clip.clipped_share for clip in clips if clip.clipped_share is not None]
            if name and shares:
                told[name] = torch.stack(shares).amax()
        for line in self._boundary_watch.look(told, trainer.global_step, optimizer):
            rank_zero_warn(line)
        return {f"clip/{name}": share for name, share in told.items()}

    def settle(self) -> None:
        """Let no rule keep to itself what it has found.

        Raises:
            NonFiniteError: If gradients of an earlier step were not finite.
        """
        self._clipper.settle()

    def _beside(
        self, gradients: Gradients, by_term: Mapping[str, Mapping[int, Tensor]]
    ) -> dict[str, list[Tensor | None]]:
        """Each term's gradients in the order of all gradients, unscaled and averaged over processes."""
        found: dict[str, list[Tensor | None]] = {}
        for name, kept in by_term.items():
            there = [kept.get(id(p)) for p in gradients.parameters]
            if self._scale is not None:
                there = [None if g is None else g / self._scale for g in there]
            if not alone():  # another process may have what this one has not
                pairs = zip(there, gradients.parameters, strict=True)
                there = list(average([torch.zeros_like(p) if g is None else g for g, p in pairs]))
            found[name] = there
        return found


def _share_name(path: str) -> str:
    """Under what a backward clip's share is logged; "" for those of other models than the student.

    >>> [_share_name(f"student.{path}") for path in ("modality_clips.audio.clips.1", "feature_clip")]
    ['boundary_share/audio', 'boundary_share']
    """
    found = _BOUNDARY.match(path)
    return "" if found is None else "/".join(filter(None, ("boundary_share", found[1])))


def loss_scale(trainer: Trainer) -> Tensor | None:
    """What a scaler multiplies the loss with, 0-d; it changes only after a step, not between its batches."""
    scaler = scaler_of(trainer)
    if scaler is None:
        return None
    found: Tensor = scaler.scale(torch.ones((), device=trainer.strategy.root_device))
    return found


def view_of(
    student: MultimodalModel, task: Task, output: ModelOutput, batch: Batch, step: int, epoch: int, seed: int
) -> StudentView:
    """What a balancer may look at.

    Args:
        student: Which gave the output.
        task: Its loss.
        output: With its graph.
        batch: What was answered.
        step: Optimizer steps taken.
        epoch: Epochs completed.
        seed: Of the run.
    """
    target, weight = batch["target"], batch.get("weight")
    present = output.present

    def task_loss(logits: Tensor, rows: Tensor) -> Tensor:
        return task.loss(logits, only_rows(target, rows), weight)

    return StudentView(
        features=output.features,
        present=present,
        logits=output.logits,
        target=target,
        labelled=labelled_rows(target),
        answer_from=lambda modalities: student.answer_from(output, modalities),
        task_loss=task_loss,
        step=step,
        epoch=epoch,
        seed=seed,
    )
