"""Trainings of `cross_domain.py`: one student by one method on one pair of domains."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from cross_domain_data import DomainPair, read_pair
from cross_domain_methods import STEPS, Kind, Method, Taught, methods
from cross_domain_teachers import knowledge
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch import Tensor

from lightning_distill import DistillationModule, MultimodalModel
from lightning_distill.data import CrossDomainDataModule, MultimodalDataModule, PartlyLabelled
from lightning_distill.data.source import DataSource
from lightning_distill.encoders import Encoder, ImageCNN, LogMelCNN
from lightning_distill.fusion import ConcatFusion
from lightning_distill.knowledge import Knowledge
from lightning_distill.knowledge_fusion import LabelPropagation, fuse
from lightning_distill.structures import Batch
from lightning_distill.teachers import EmaTeacher, StoredTeacher, Teacher
from lightning_distill.validators import (
    batch_nuclear_norm,
    density_ratio,
    importance_weighted_risk,
    mutual_information,
    negative_entropy,
    soft_neighbourhood_density,
    teacher_agreement,
)

BATCH, RATE = 64, 3e-3
METHODS = methods()
PREPARE = "prepare"
"""In place of a method: only make what all methods share."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        pair: Name of the domains.
        method: One of `METHODS`, or `PREPARE`.
        seed: Of splits, weights, batches and the teacher's head.
    """

    pair: str
    method: str
    seed: int

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Prepared:
    """What all methods share on a pair and seed.

    Attributes:
        pair: The domains.
        both: Source with labels, target without.
        source: The source alone.
        target: The target alone, with its labels: for the ceiling, and to test on.
        labelled: Both with their labels.
        knowledge: What the teacher said, by kind of teaching.
    """

    pair: DomainPair
    both: CrossDomainDataModule
    source: MultimodalDataModule
    target: MultimodalDataModule
    labelled: CrossDomainDataModule
    knowledge: dict[Taught, Path]


_PLACE: dict[str, Path] = {}


def begin(data: Path, work: Path) -> None:
    """Make a process ready.

    Args:
        data: Folder of the real data.
        work: Where features and knowledge are kept.
    """
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    _PLACE.update(data=data, work=work)


@cache
def prepared(name: str, seed: int) -> Prepared:
    """Read once a process what a pair and seed need."""
    seed_everything(seed, verbose=False)
    pair = read_pair(name, _PLACE["data"], _PLACE["work"], seed)

    def module(source: DataSource) -> MultimodalDataModule:
        return MultimodalDataModule(source, pair.processors, BATCH, in_memory=True)

    both = CrossDomainDataModule(module(pair.source), module(PartlyLabelled(pair.target)))
    said = {Taught.KNOWLEDGE: knowledge(pair, _PLACE["work"], seed)}
    said[Taught.FUSED] = fused(said[Taught.KNOWLEDGE], both)
    if "text" in pair.target.modalities:
        said[Taught.NO_TEXT] = knowledge(pair, _PLACE["work"], seed, text=False)
    return Prepared(
        pair,
        both,
        module(pair.source),
        module(pair.target),
        CrossDomainDataModule(module(pair.source), module(pair.target)),
        said,
    )


def fused(known: Path, both: CrossDomainDataModule) -> Path:
    """What the teacher said, fused with the target's data: spread among neighbours."""
    folder = known.with_name(f"{known.name}.fused")
    if not folder.exists():
        made = fuse([Knowledge.open(known)], both.indexed, both.targets, [LabelPropagation()])
        made.write(folder)
    return folder


def student(pair: DomainPair) -> MultimodalModel:
    """The small network that is trained, always the same on a pair."""
    encoder: Encoder = LogMelCNN(32, 8)
    if pair.modality == "image":
        encoder = ImageCNN(pair.processors["image"].settings["channels"], width=16)  # type: ignore[arg-type]
    return MultimodalModel({pair.modality: encoder}, len(pair.classes), ConcatFusion)


def teacher(method: Method, ready: Prepared) -> Teacher | None:
    """Who teaches by this method."""
    if method.taught is Taught.NOBODY:
        return None
    return EmaTeacher(0.99) if method.taught is Taught.SELF else StoredTeacher(ready.knowledge[method.taught])


def train(job: Job) -> MultimodalModel:
    """Train the student."""
    method, ready = METHODS[job.method], prepared(job.pair, job.seed)
    data: LightningDataModule = {
        Kind.SOURCE: ready.source,
        Kind.CEILING: ready.target,
        Kind.CEILING_BOTH: ready.labelled,
    }.get(method.kind, ready.both)
    seed_everything(job.seed, verbose=False)
    model = student(ready.pair)
    module = DistillationModule(
        model,
        teacher(method, ready),
        method.terms(),
        dict(method.weights),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, RATE, weight_decay=0.01, fused=True),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, RATE, STEPS, cycle_momentum=False
        ),
        scheduler_interval="step",
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=STEPS,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return model.eval()


@dataclass(frozen=True)
class Answers:
    """What a student says of many samples.

    Attributes:
        logits: "samples classes".
        embedding: "samples dim".
        target: int64 "samples".
        sample_id: int64 "samples".
    """

    logits: Tensor
    embedding: Tensor
    target: Tensor
    sample_id: Tensor

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return (self.logits.argmax(dim=1) == self.target).double().mean().item()


@torch.no_grad()
def answers(model: MultimodalModel, batches: Iterable[Batch]) -> Answers:
    """Ask about every sample once."""
    found = []
    for batch in batches:
        output = model(batch)
        assert output.embedding is not None
        found.append((output.logits, output.embedding, batch["target"], batch["sample_id"]))
    return Answers(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def measured(model: MultimodalModel, ready: Prepared) -> dict[str, float]:
    """Validators: what can be known of a student without a label of the target. Larger is better."""
    source = answers(model, ready.source.val_dataloader())
    target = answers(model, ready.target.val_dataloader())
    z, order = target.logits, torch.randperm(len(source.target), generator=torch.Generator().manual_seed(0))
    wrong = (source.logits.argmax(dim=1) != source.target)[order]
    weights = density_ratio(source.embedding[order], target.embedding)
    found = {
        "negative entropy": negative_entropy(z),
        "mutual information": mutual_information(z),
        "soft neighbourhood density": soft_neighbourhood_density(z.softmax(dim=1)),
        "batch nuclear norm": batch_nuclear_norm(z),
        "source accuracy": torch.tensor(source.accuracy),
        "importance-weighted accuracy": 1 - importance_weighted_risk(wrong, weights),
    }
    for told, taught in (("teacher", Taught.KNOWLEDGE), ("fused", Taught.FUSED)):
        rows = Knowledge.open(ready.knowledge[taught]).rows(target.sample_id.numpy(), ["logits"])
        found[f"agreement with {told}"] = teacher_agreement(z, torch.from_numpy(rows["logits"]).float())
    return {name: float(value) for name, value in found.items()}


def run(job: Job) -> dict[str, Any]:
    """Train and measure; the accuracy is a share."""
    ready, begun = prepared(job.pair, job.seed), time.monotonic()
    if job.method == PREPARE:
        return {"job": asdict(job)}
    model = train(job)
    seconds = time.monotonic() - begun
    return {
        "job": asdict(job),
        "accuracy": answers(model, ready.target.test_dataloader()).accuracy,
        "validators": measured(model, ready),
        "seconds": round(seconds, 2),
    }
