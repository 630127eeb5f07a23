"""The first table: from a labelled domain to a new one with 50 labels, and from three modalities to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_distill.clipping import ClipRule, ValueClip
from lightning_distill.commands.demo.constants import (
    ALPHA,
    EPSILON,
    FEATURE_EPSILON,
    LABELLED_PER_BATCH,
    LABELS,
    LEARNING_RATE,
    MODALITIES,
    MODALITY_DROPOUT,
    STEPS,
    STUDENTS,
    TEMPERATURE,
)
from lightning_distill.commands.demo.models import adamw, model, one_cycle
from lightning_distill.commands.demo.records import Result
from lightning_distill.commands.demo.training import data_module, evaluate, fit, latency, start
from lightning_distill.data import DataSource, MultimodalDataModule, Shuffle
from lightning_distill.data.datasets import Digits
from lightning_distill.feature_clipping import FeatureClip, HardClip
from lightning_distill.losses import LogitKD
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from lightning_distill.teachers import FrozenTeacher


@dataclass(frozen=True)
class Domains:
    """Where the labels are, where they are not, and how it would be with all of them."""

    source: DataSource
    target: DataSource
    target_labelled: DataSource


def embedded(seed: int) -> Domains:
    """The digits that come with the package."""
    return Domains(
        Digits("source", seed=seed),
        Digits("target", labelled=LABELS, seed=seed),
        Digits("target", seed=seed),
    )


class Story:
    """The rows of one seed, trained one after the other.

    Args:
        seed: Of pairing, choice of labels, weights, order and augmentation.
        domains: The data.
        steps: Optimizer steps, the same for every model.
    """

    def __init__(self, seed: int, domains: Domains, steps: int = STEPS) -> None:
        self.seed, self.domains, self.steps = seed, domains, steps
        start(seed)
        self.source = data_module(domains.source, MODALITIES)
        self.target = data_module(domains.target, MODALITIES, sampling=Shuffle(LABELLED_PER_BATCH))
        self.teacher = self.train_teacher()

    def train_teacher(self) -> FrozenTeacher:
        """All modalities, the source's labels."""
        start(self.seed)
        teacher = model(MODALITIES, HardClip(FEATURE_EPSILON), MODALITY_DROPOUT)
        fit(self._supervised(teacher), self.source, self.steps)
        return FrozenTeacher(teacher)

    def rows(self) -> list[Result]:
        """Every row of the table for this seed."""
        rows = [self._result("teacher", self.teacher.model)]
        for modality in STUDENTS:
            rows += self._student_rows(modality)
        return rows

    def _student_rows(self, modality: str) -> list[Result]:
        only = (modality,)
        labelled = data_module(self.domains.target, only, sampling=Shuffle(unlabelled=False))
        everything = data_module(self.domains.target_labelled, only)
        kinds = {
            "source-only": lambda: self._train(only, self.source),
            "scratch": lambda: self._train(only, labelled),
            "distilled": lambda: self._distil(only),
            "distilled + clip": lambda: self._distil(only, ValueClip(EPSILON), HardClip(FEATURE_EPSILON)),
            "ceiling": lambda: self._train(only, everything),
        }
        return [self._result(f"{modality} {kind}", train()) for kind, train in kinds.items()]

    def _supervised(self, student: MultimodalModel) -> DistillationModule:
        return DistillationModule(
            student,
            optimizer=adamw(),
            lr_scheduler=one_cycle(LEARNING_RATE, self.steps),
            scheduler_interval="step",
        )

    def _train(self, modalities: Sequence[str], data: MultimodalDataModule) -> MultimodalModel:
        start(self.seed)
        student = model(modalities)
        fit(self._supervised(student), data, self.steps)
        return student

    def _distil(
        self, modalities: Sequence[str], rule: ClipRule | None = None, clip: FeatureClip | None = None
    ) -> MultimodalModel:
        start(self.seed)
        student = model(modalities, clip)
        module = DistillationModule(
            student,
            teacher=self.teacher,
            losses={"kd": LogitKD(TEMPERATURE)},
            weights={"task": 1 - ALPHA, "kd": ALPHA},
            clip_rule=rule,
            optimizer=adamw(),
            lr_scheduler=one_cycle(LEARNING_RATE, self.steps),
            scheduler_interval="step",
        )
        fit(module, self.target, self.steps)
        return student

    def _result(self, name: str, student: MultimodalModel) -> Result:
        itself = student is self.teacher.model
        metrics = evaluate(student, self.target, None if itself else self.teacher)
        batch = next(iter(self.target.test_dataloader()))
        return Result(
            name,
            student.modalities,
            sum(p.numel() for p in student.parameters()),
            latency(student, batch),
            metrics["accuracy"],
            1.0 if itself else metrics["agreement"],
            metrics["calibration_error"],
        )
