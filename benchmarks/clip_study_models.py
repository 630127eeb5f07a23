"""How `clip_study.py` trains: small models on stored features, in a bare loop around the library's pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from clip_study_data import Rows, batch_of
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.clipping import ClipRule
from lightning_distill.encoders.base import Encoder
from lightning_distill.feature_clipping import FeatureClip
from lightning_distill.gradient_balancing import GradientBalancer, StudentView
from lightning_distill.gradients import gradients_of
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch

BATCH: Final = 64
MOMENTUM: Final = 0.9
WEIGHT_DECAY: Final = 0.01
VALIDATED: Final = 500
"""Validation rows a balancer may look at after an epoch."""


class Perceptron(Encoder):
    """Two linear layers with a rectifier between.

    Args:
        features: Of the input.
        hidden: Width between the layers.
        embedding_dim: Width of what it returns.
    """

    def __init__(self, features: int, hidden: int = 128, embedding_dim: int = 64) -> None:
        super().__init__(embedding_dim)
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, embedding_dim))

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode "batch features"."""
        return self.layers(inputs)


class LayerNormClip(FeatureClip):
    """Layer normalisation in the place of a feature clip, to compare with.

    Args:
        dim: Width of the fused feature.
    """

    def __init__(self, dim: int = 192) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, present: Tensor | None = None, fresh: bool = True) -> Tensor:
        """Normalise x, "batch dim"."""
        normalised: Tensor = self.norm(x)
        return normalised

    def saturated(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Nothing is."""
        return torch.zeros_like(x, dtype=torch.bool)


@dataclass(frozen=True)
class Parts:
    """What a training is made of beside data and rate.

    Attributes:
        rule: Edits gradients.
        balancer: Balances modalities or terms.
        feature_clip: On the fused feature.
        modality_clip: Makes the clip of each modality's feature.
    """

    rule: ClipRule | None = None
    balancer: GradientBalancer | None = None
    feature_clip: FeatureClip | None = None
    modality_clip: Callable[[], FeatureClip] | None = None


@dataclass(frozen=True)
class Recipe:
    """How long and how fast.

    Attributes:
        optimizer: "sgd" or "adamw".
        rate: Learning rate at the start; it falls to 0 in a line.
        steps: Optimizer steps.
        seed: Of weights, batches and modality dropout.
        dropout: Of modalities.
    """

    optimizer: str
    rate: float
    steps: int
    seed: int
    dropout: float = 0.0


def make_model(rows: Rows, modalities: Sequence[str], parts: Parts, dropout: float) -> MultimodalModel:
    """The student; its weights are torch's next random numbers."""
    encoders: dict[str, Encoder] = {m: Perceptron(rows.x[m].shape[1]) for m in modalities}
    make = partial(MultimodalModel, encoders, 10, feature_clip=parts.feature_clip, modality_dropout=dropout)
    if parts.modality_clip is None:
        return make()
    return make(modality_clips={m: parts.modality_clip() for m in modalities})


def make_optimizer(recipe: Recipe, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW with weight decay 0.01."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, recipe.rate, momentum=MOMENTUM)
    return torch.optim.AdamW(parameters, recipe.rate, weight_decay=WEIGHT_DECAY, fused=True)


def train(train_rows: Rows, val_rows: Rows, modalities: Sequence[str], recipe: Recipe, parts: Parts) -> Run:
    """Train one model.

    Returns:
        The run; it stops early where the weights are no longer finite.
    """
    torch.manual_seed(recipe.seed)
    run = Run(make_model(train_rows, modalities, parts, recipe.dropout), parts, recipe)
    draw = torch.Generator().manual_seed(recipe.seed)
    per_epoch = max(1, len(train_rows) // BATCH)
    for step in range(recipe.steps):
        at = torch.randint(len(train_rows), (BATCH,), generator=draw)
        run.step(batch_of(train_rows, at, modalities), step, step // per_epoch)
        if parts.balancer is not None and (step + 1) % per_epoch == 0:
            run.end_epoch(batch_of(val_rows, slice(VALIDATED), modalities), step, step // per_epoch)
        if step % 25 == 24 and not run.finite():
            break
    run.model.eval()
    return run


class Run:
    """A model in training.

    Args:
        model: The student.
        parts: What shapes its gradients.
        recipe: How fast.
    """

    def __init__(self, model: MultimodalModel, parts: Parts, recipe: Recipe) -> None:
        self.model, self.parts, self.recipe = model.train(), parts, recipe
        trained = list(model.parameters())
        if parts.balancer is not None:
            trained += list(parts.balancer.parameters())
        self.optimizer = make_optimizer(recipe, trained)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 1 - step / recipe.steps
        )

    def finite(self) -> bool:
        """Whether all weights are."""
        return all(bool(p.isfinite().all()) for p in self.model.parameters())

    def step(self, batch: Batch, step: int, epoch: int) -> None:
        """One optimizer step."""
        self.optimizer.zero_grad()
        if self.parts.balancer is None:
            F.cross_entropy(self.model(batch).logits, batch["target"]).backward()
        else:
            self._balanced(batch, step, epoch)
        if self.parts.rule is not None:
            self.parts.rule.clip(self.model.named_parameters(), step=step, epoch=epoch)
        self.optimizer.step()
        self.schedule.step()

    def _balanced(self, batch: Batch, step: int, epoch: int) -> None:
        balancer = self.parts.balancer
        assert balancer is not None
        terms = balancer.terms(*self._seen(batch, step, epoch))
        named = list(self.model.named_parameters())
        named += [(f"balancer.{name}", p) for name, p in balancer.named_parameters()]
        by_term: dict[str, Sequence[Tensor | None]] = {}
        if balancer.per_term_gradients:
            wanted = [p for _, p in named]
            for name, term in terms.items():
                found = torch.autograd.grad(term, wanted, retain_graph=True, allow_unused=True)
                for p, grad in zip(wanted, found, strict=True):
                    if grad is not None:
                        p.grad = grad.clone() if p.grad is None else p.grad + grad
                by_term[name] = found
            kept = [i for i, p in enumerate(wanted) if p.grad is not None]
            by_term = {name: [found[i] for i in kept] for name, found in by_term.items()}
        else:
            torch.stack(list(terms.values())).sum().backward()
        with torch.no_grad():
            balancer.balance(gradients_of(named, step, epoch), by_term)

    def _seen(self, batch: Batch, step: int, epoch: int) -> tuple[dict[str, Tensor], StudentView]:
        output, target = self.model(batch), batch["target"]
        present = output.present

        def task_loss(logits: Tensor, rows: Tensor) -> Tensor:
            return F.cross_entropy(logits[rows], target[rows]) if bool(rows.any()) else logits.sum() * 0

        everyone = torch.ones_like(target, dtype=torch.bool)
        view = StudentView(
            output.features,
            present,
            output.logits,
            target,
            everyone,
            lambda modalities: self.model.answer_from(output, modalities),
            task_loss,
            step,
            epoch,
            self.recipe.seed,
        )
        return {"task": F.cross_entropy(output.logits, target)}, view

    def end_epoch(self, validation: Batch, step: int, epoch: int) -> None:
        """Tell the balancer."""
        balancer = self.parts.balancer
        assert balancer is not None
        if balancer.reads_validation:
            self.model.eval(), balancer.eval()
            with torch.no_grad():
                balancer.terms(*self._seen(validation, step, epoch))
            self.model.train(), balancer.train()
        balancer.end_epoch(lambda value: value)


def unimodal_terms(view: StudentView) -> dict[str, Tensor]:
    """The task's loss from each modality alone."""
    return {f"unimodal/{m}": view.task_loss(view.answer_from((m,)), p) for m, p in view.present.items()}


@torch.no_grad()
def answers(model: MultimodalModel, rows: Rows) -> Tensor:
    """Log-probabilities, "rows classes"."""
    return model(batch_of(rows, slice(None), model.modalities)).logits.log_softmax(1)


def accuracy(logits: Tensor, rows: Rows) -> float:
    """In %."""
    return 100 * float((logits.argmax(1) == rows.target).double().mean())
