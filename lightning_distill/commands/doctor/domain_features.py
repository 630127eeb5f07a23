"""What the doctor compares of two domains: features of some training rows, one table a modality."""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from lightning.pytorch.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.commands.doctor.parts import Parts
from lightning_distill.data.bad_samples import Substituted
from lightning_distill.data.cross_domain import CrossDomainDataModule
from lightning_distill.data.reading import Reading
from lightning_distill.data.sampling import BatchKey
from lightning_distill.domain_distance import distinct_rows
from lightning_distill.module import DistillationModule
from lightning_distill.randomness import generator
from lightning_distill.structures import Batch, ModelOutput, Outputs
from lightning_distill.teachers import Teacher

ROWS: Final = 400
"""Training rows of each domain that are read, at most."""
_AT_ONCE: Final = 32
_PATIENCE: Final = 10.0
"""Seconds after which no further rows are read."""


@dataclass
class DomainFeatures:
    """Features of training rows, without augmentation.

    Attributes:
        compared: modality -> what its features are.
        rows: modality -> domain -> "rows dim", copies counted once.
        teacher_shares: domain -> the teacher's mean probability of each class, "classes"; empty without a
            teacher that tells classes apart.
        cut_short: Whether reading took too long, so that there are fewer rows than asked for.
    """

    compared: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    teacher_shares: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    cut_short: bool = False


def read_features(parts: Parts, module: DistillationModule, data: CrossDomainDataModule) -> DomainFeatures:
    """Read up to 400 training rows of each domain and have them answered, in evaluation mode.

    A modality's features are the teacher's `features.<modality>` where it gives such, or its embedding where
    it reads that modality alone: they tell how far apart the domains are to a trained model. Otherwise, and
    where the teacher learns from the student, they are the student's as training starts: those of an encoder
    that is not pretrained are random projections, which find coarse differences only.

    Args:
        parts: For the device.
        module: Student and teacher.
        data: The domains.
    """
    device = torch.device("cpu") if parts.trainer is None else parts.trainer.strategy.root_device
    teacher, student = module.teacher, module.student.to(device)
    if teacher is not None:
        teacher.to(device)
    training, found, cut_short = student.training, _Gathered(), False
    student.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what samples could warn of was found when they were read
            begin = time.perf_counter()
            for batch in _batches(data):
                if cut_short := time.perf_counter() - begin > _PATIENCE and not found.empty:
                    break
                batch = move_data_to_device(batch, device)
                answer = None if teacher is None else _answer(teacher, batch)
                found.add(batch, student(batch), teacher, answer)
    finally:
        student.train(training)
    features = found.features(data, module.task.outputs is Outputs.CLASSES)
    features.cut_short = cut_short
    return features


def _batches(data: CrossDomainDataModule) -> Iterator[Batch]:
    """As many rows of each domain in every batch, while there are some."""
    rows, domain = data.rows("train"), data.indexed.samples.domain
    chosen = []
    for index, name in enumerate(data.domains):
        own = rows[domain[rows] == index]
        chosen.append(generator("doctor", data.seed, name).permutation(own)[:ROWS])
    used = np.sort(np.concatenate(chosen))
    reading = Reading(data.processors, data.teacher_processors, data.seed, "val", substitute=True)
    dataset = data.make_dataset(used, reading)
    for start in range(0, ROWS, _AT_ONCE):
        some = np.concatenate([own[start : start + _AT_ONCE] for own in chosen])
        if len(some):
            batch = dataset[BatchKey(0, np.searchsorted(used, some))]
            yield batch.batch if isinstance(batch, Substituted) else batch  # type: ignore[misc]


def _answer(teacher: Teacher, batch: Batch) -> ModelOutput:
    inputs = {**batch["inputs"], **batch.get("teacher_inputs", {})}
    return teacher({**batch, "inputs": inputs})  # type: ignore[typeddict-item]


class _Gathered:
    """What was answered so far, by what it is."""

    def __init__(self) -> None:
        self._x: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
        self._domain: dict[tuple[str, str], list[Tensor]] = defaultdict(list)

    @property
    def empty(self) -> bool:
        """Whether nothing was answered yet."""
        return not self._x

    def add(
        self, batch: Batch, student: ModelOutput, teacher: Teacher | None, answer: ModelOutput | None
    ) -> None:
        """Keep the features of the modalities that are there."""
        everyone = {m: ("the student's", name, x) for m, name, x in _features(student, ())}
        if answer is not None and teacher is not None:
            if not teacher.changes:
                theirs = _features(answer, tuple(teacher.requirements))
                everyone |= {m: ("the teacher's", name, x) for m, name, x in theirs}
            self._keep(("", "shares"), answer.logits.double().softmax(dim=1), batch["domain"])
        for modality, (whose, name, x) in everyone.items():
            if modality in batch["present"]:
                there = batch["present"][modality]
                told = f"{whose} {name}" + (", as training starts" if whose == "the student's" else "")
                self._keep((modality, told), x[there].flatten(1).double(), batch["domain"][there])

    def _keep(self, key: tuple[str, str], x: Tensor, domain: Tensor) -> None:
        self._x[key].append(x.cpu())
        self._domain[key].append(domain.cpu())

    def features(self, data: CrossDomainDataModule, classes: bool) -> DomainFeatures:
        """Everything, sorted by domain."""
        found = DomainFeatures()
        for key, parts in self._x.items():
            x, of = torch.cat(parts), torch.cat(self._domain[key])
            sides = {name: x[of == index] for index, name in enumerate(data.domains)}
            if key == ("", "shares"):
                shares = {name: rows.mean(dim=0).numpy() for name, rows in sides.items() if len(rows)}
                found.teacher_shares = shares if classes else {}
            else:
                found.compared[key[0]] = key[1]
                found.rows[key[0]] = {name: distinct_rows(rows) for name, rows in sides.items()}
        return found


def _features(output: ModelOutput, alone: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
    """Modality, name and tensor of each; the embedding of what reads one modality alone is its feature."""
    for name, x in output.features.items():
        # In a group of teachers each puts its name before it; the first counts.
        yield name.rpartition(".")[2], f"features.{name}", x
    if len(alone) == 1 and not output.features and output.embedding is not None:
        yield alone[0], "embedding", output.embedding
