"""A small student of plain layers, and one step as the training module takes it, for balancers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.gradient_balancing import GradientBalancer, StudentView
from lightning_distill.gradients import gradients_of
from lightning_distill.structures import UNLABELLED

CLASSES, WIDTH, ROWS = 3, 4, 12


class Attending(nn.Module):
    """A transformer encoder: matrices, vectors and a 3-D position, no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(-1, 2, WIDTH) + self.position).mean(dim=1)


class Student(nn.Module):
    """Encoders of vectors of 8 numbers, a head over the concatenated features."""

    def __init__(self, modalities: Sequence[str] = ("a", "b")) -> None:
        super().__init__()
        made = [Attending() if i == 1 else nn.Sequential(nn.Linear(8, WIDTH), nn.Tanh()) for i in range(9)]
        self.encoders = nn.ModuleDict(dict(zip(modalities, made, strict=False)))
        self.head = nn.Sequential(nn.Linear(WIDTH * len(modalities), 6), nn.Tanh(), nn.Linear(6, CLASSES))

    def answer(
        self, features: Mapping[str, Tensor], there: Mapping[str, Tensor], some: Sequence[str]
    ) -> Tensor:
        parts = [f * (there[m] & (m in some))[:, None] for m, f in features.items()]
        return self.head(torch.cat(parts, dim=1))


def inputs_of(modalities: Sequence[str], rows: int = ROWS) -> dict[str, Tensor]:
    return {m: torch.randn(rows, 8) for m in modalities}


def view_of(
    student: Any,
    inputs: Mapping[str, Tensor],
    target: Tensor,
    present: Mapping[str, Tensor] | None = None,
    step: int = 0,
    epoch: int = 0,
    seed: int = 0,
) -> StudentView:
    """What the training module shows a balancer."""
    there = dict(present or {m: torch.ones(len(target), dtype=torch.bool) for m in inputs})
    features = {m: student.encoders[m](x).masked_fill(~there[m][:, None], 0.0) for m, x in inputs.items()}

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        masked = target.masked_fill(~rows, UNLABELLED)
        values = F.cross_entropy(logits, masked, ignore_index=UNLABELLED, reduction="sum")
        return values / (masked != UNLABELLED).sum().clamp(min=1)

    return StudentView(
        features,
        there,
        student.answer(features, there, tuple(features)),
        target,
        target != UNLABELLED,
        lambda some: student.answer(features, there, some),
        loss,
        step,
        epoch,
        seed,
    )


@dataclass
class Step:
    """Gradients by name, and what was said."""

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    by_term: dict[str, dict[str, Tensor | None]]
    terms: dict[str, Tensor]
    told: dict[str, Tensor]

    def of(self, modality: str) -> list[tuple[Tensor, Tensor]]:
        """Before and after, of one encoder."""
        return [(g, self.after[n]) for n, g in self.before.items() if n.startswith(f"encoders.{modality}.")]


def weighted_of(view: StudentView, kd: float = 0.7) -> dict[str, Tensor]:
    """A task loss, and a distillation term of a teacher that names other classes."""
    everyone = torch.ones_like(view.labelled)
    aim = -(view.target[:, None] == torch.arange(CLASSES)).to(view.logits)
    return {"task": view.task_loss(view.logits, everyone), "kd": kd * (view.logits - aim).square().mean()}


def take_step(
    balancer: GradientBalancer, student: nn.Module, view: StudentView, fresh: bool = True, kd: float = 0.7
) -> Step:
    """Terms, backward, gradients of each term, balance."""
    terms = balancer.terms(weighted_of(view, kd), view)
    named = dict(student.named_parameters())
    total = torch.stack([t.to(torch.float64) for t in terms.values()]).sum()
    for parameter, grad in zip(
        named.values(), torch.autograd.grad(total, list(named.values()), retain_graph=True), strict=True
    ):
        parameter.grad = grad.clone()
    gradients = gradients_of(named, view.step, view.epoch, fresh)
    by_term: dict[str, list[Tensor | None]] = {}
    if balancer.per_term_gradients:
        for name, term in terms.items():
            found = torch.autograd.grad(term, list(named.values()), retain_graph=True, allow_unused=True)
            by_term[name] = list(found)
    before = {n: g.clone() for n, g in zip(gradients.names, gradients.local, strict=True)}
    tensors = [p.grad for p in named.values()]
    with torch.no_grad():
        told = balancer.balance(gradients, by_term)
    assert all(p.grad is t for p, t in zip(named.values(), tensors, strict=True)), "edited in place"
    after = {n: g.clone() for n, g in zip(gradients.names, gradients.local, strict=True)}
    pieces = {name: dict(zip(gradients.names, grads, strict=True)) for name, grads in by_term.items()}
    return Step(before, after, pieces, terms, told)


def average_alone(values: Tensor) -> Tensor:
    """Over the processes: there is one."""
    return values
