"""The teacher of handwriting: a network that has seen its digits distorted, and then teaches itself.

First it learns the source's labelled digits, each one stretched, sheared, shifted, made thicker or thinner,
blurred and noisy at random, so that the other way to write and scan is one of those it has met. Then it goes
on with both domains: the mean over its last weights answers the target's digits as they are, and where that
is sure, the network learns to say the same of the distorted digit. No label of the target is read.

Source: Tarvainen and Valpola (1703.01780) for the mean over weights, Sohn et al. (2001.07685) for the
confident pseudo-labels of a digit as it is for one that is distorted, Berthelot et al. (1911.09785) for
bringing the share of each class in line, here to equal shares.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from cross_domain_data import DomainPair, PoolSource
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional as F

from lightning_distill.encoders import ImageCNN
from lightning_distill.model import MultimodalModel
from lightning_distill.randomness import derive, generator
from lightning_distill.structures import Batch, ModelOutput

WIDTH: Final = 24
STEPS: Final = (400, 800)
"""With the source alone, and with both domains."""
BATCH, RATE, DECAY, SURE, KEPT = 64, 3e-3, 0.05, 0.8, 0.99
"""Samples of each domain a step; learning rate and weight decay of AdamW; confidence from which an answer
counts; share of the mean over weights that stays in a step."""


@dataclass(frozen=True)
class Answers:
    """What a teacher says of samples.

    Attributes:
        logits: "samples classes".
        embedding: "samples dim".
    """

    logits: Tensor
    embedding: Tensor


def handwriting_answers(pair: DomainPair, seed: int) -> Answers:
    """Answers to train and val of the source, then of the target."""
    training = _Training(pair, seed)
    for step in range(sum(STEPS)):
        training.step(alone=step < STEPS[0])
    parts = [training.answers(x) for x in (training.source, training.target)]
    return Answers(torch.cat([p.logits for p in parts]), torch.cat([p.embedding for p in parts]))


class _Training:
    """The network, the mean over its weights, and batches of both domains."""

    def __init__(self, pair: DomainPair, seed: int) -> None:
        self.modality = pair.modality
        self.source, self.target = _prepared(pair, pair.source), _prepared(pair, pair.target)
        learnt = np.flatnonzero(pair.source.samples.split == 0)
        self.label = torch.from_numpy(pair.source.samples.target)
        number = derive("handwriting teacher", pair.name, seed)
        self.draw = torch.Generator().manual_seed(number)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(number)
            self.model = MultimodalModel({self.modality: ImageCNN(1, WIDTH, 128)}, len(pair.classes))
        self.mean = copy.deepcopy(self.model).eval()
        self.rows = _endless(learnt, "source", seed), _endless(np.arange(len(self.target)), "target", seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), RATE, weight_decay=DECAY)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, RATE, total_steps=sum(STEPS))
        self.share = torch.full((len(pair.classes),), 1 / len(pair.classes))
        self.steps = 0

    def step(self, alone: bool) -> None:
        """One optimizer step, with the source alone or with both domains."""
        rows = next(self.rows[0])
        x = [distorted(self.source[rows], self.draw)]
        if not alone:
            plain = self.target[next(self.rows[1])]
            x.append(distorted(plain, self.draw))
        logits = self._ask(self.model, torch.cat(x)).logits
        loss = F.cross_entropy(logits[: len(rows)], self.label[rows])
        if not alone:
            loss = loss + self._own(plain, logits[len(rows) :])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1
        kept = min(KEPT, self.steps / (self.steps + 9))
        with torch.no_grad():
            for mean, now in zip(self.mean.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(now, 1 - kept)

    def _own(self, plain: Tensor, logits: Tensor) -> Tensor:
        """Cross-entropy to its own sure answers, after their shares of classes are made equal."""
        with torch.no_grad():
            said = self._ask(self.mean, plain).logits.softmax(dim=1)
            self.share.lerp_(said.mean(dim=0), 0.05)
            said = F.normalize(said / self.share, p=1, dim=1)
            sure, label = said.max(dim=1)
        return ((sure > SURE) * F.cross_entropy(logits, label, reduction="none")).mean()

    @torch.no_grad()
    def answers(self, x: Tensor) -> Answers:
        """Of the mean over weights."""
        found = [self._ask(self.mean, part) for part in x.split(512)]
        embedding = torch.cat([output.at("embedding") for output in found])
        return Answers(torch.cat([output.logits for output in found]), embedding)

    def _ask(self, model: MultimodalModel, x: Tensor) -> ModelOutput:
        there = torch.ones(len(x), dtype=torch.bool)
        batch: Batch = {"inputs": {self.modality: 255 * x}, "present": {self.modality: there}}  # type: ignore[typeddict-item]
        output: ModelOutput = model(batch)
        return output


def _prepared(pair: DomainPair, source: PoolSource) -> Tensor:
    """Train and val as a student sees them, float "samples 1 height width" from 0 to 1."""
    processor, rows = pair.processors[pair.modality], np.flatnonzero(source.samples.split < 2)
    x = processor.collate([processor.prepare(source.load(pair.modality, int(row))) for row in rows])
    assert isinstance(x, Tensor)
    return x.float() / 255


def _endless(rows: NDArray[np.int64], *about: int | str) -> Iterator[Tensor]:
    draw = generator("handwriting teacher", *about)
    while True:
        order = torch.from_numpy(draw.permutation(rows))
        yield from order[: len(order) // BATCH * BATCH].split(BATCH)


def distorted(x: Tensor, draw: Generator) -> Tensor:
    """Each digit stretched, turned, sheared and shifted; thicker or thinner; blurred; darker; noisy.

    Args:
        x: "batch 1 height width", 0 (paper) to 1 (ink).
        draw: Where chance comes from.
    """
    count = len(x)

    def between(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=draw)

    turn, shear = between(-0.3, 0.3), between(-0.25, 0.25)
    wide, high = between(-0.25, 0.25).exp(), between(-0.25, 0.25).exp()
    matrix = torch.stack(
        [
            torch.stack([turn.cos() * wide, shear - turn.sin(), between(-0.15, 0.15)], dim=1),
            torch.stack([turn.sin() * wide, turn.cos() * high, between(-0.15, 0.15)], dim=1),
        ],
        dim=1,
    )
    x = F.grid_sample(x, F.affine_grid(matrix, list(x.shape), align_corners=False), align_corners=False)
    amount, kind, blur = (between(0, 1)[:, None, None, None] for _ in range(3))
    thick, thin = F.max_pool2d(x, 3, 1, 1), -F.max_pool2d(-x, 3, 1, 1)
    x = torch.where(
        kind < 0.35, x.lerp(thick, amount), torch.where(kind > 0.85, x.lerp(thin, 0.7 * amount), x)
    )
    coarse = F.adaptive_avg_pool2d(x, x.shape[-1] // 2)
    coarse = F.interpolate(coarse, size=list(x.shape[2:]), mode="bilinear", align_corners=False)
    x = torch.where(blur < 0.5, coarse, x)
    gamma, ink = between(-0.7, 0.7).exp(), between(0.6, 1.2)
    x = x.clamp(1e-4, 1) ** gamma[:, None, None, None] * ink[:, None, None, None]
    return (x + 0.05 * torch.randn(x.shape, generator=draw)).clamp(0, 1)
