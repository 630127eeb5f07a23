"""The method's second step: what teachers know, fused with the data of the new domain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_distill.data.source import DataSource
from lightning_distill.errors import CheckpointError, ConfigError, TeacherError
from lightning_distill.knowledge import CONFIG, Knowledge, checksum
from lightning_distill.knowledge_fusion.base import Floats, FusionContext, FusionStep
from lightning_distill.knowledge_fusion.fused import FusedKnowledge, numbers_of
from lightning_distill.knowledge_fusion.means import ArithmeticMean, TeacherMean
from lightning_distill.knowledge_fusion.samples import samples_of
from lightning_distill.knowledge_writing import Origin
from lightning_distill.structures import UNLABELLED, Batch
from lightning_distill.teachers import ClassesByName, StoredTeacher, Teacher

FLOOR: Final = 1e-12
"""Least probability whose logarithm is written."""
_ROWS: Final = 4096


def fuse(
    parents: Sequence[Knowledge],
    source: DataSource,
    targets: Sequence[str],
    steps: Sequence[FusionStep] = (),
    mean: TeacherMean | None = None,
    splits: Sequence[str] = ("train", "val"),
    smoothing: float = 0.1,
) -> FusedKnowledge:
    """Fuse what teachers know with what the data of the new domain tell.

    1. p = the mean of the teachers' answers, in the order of the data's classes.
    2. Each step changes p for the samples of the new domain, one after the other.
    3. A known label of the new domain stays what it is: p_c = (1 - s) [c = label] + s / classes.

    Fused logits are log max(p, 1e-12). Answers about the source domains stay the mean of the teachers.

    Labels are those of the table's training rows; the ones of validation and test are not read, for they
    are to measure with. Inputs are not read at all.

    Args:
        parents: Knowledge of one or several teachers, all about the same samples.
        source: The data of all domains, with the labels that training sees.
        targets: Names of the new domains, of `source.domains`.
        steps: Such as `PriorCorrection` and `LabelPropagation`; none keeps the mean.
        mean: Of several teachers; None is `ArithmeticMean()`.
        splits: Samples of these splits, as far as the first parent knows them, are fused.
        smoothing: s, from 0 to below 1.

    Raises:
        ConfigError: If settings or targets are wrong, targets are no classes, or no sample is left.
        CheckpointError: If a parent lacks samples that the first one has, or holds NaN.
        TeacherError: If parents and data do not agree in their classes.

    >>> from tempfile import TemporaryDirectory
    >>> from lightning_distill.data.datasets import Digits
    >>> from lightning_distill.knowledge_writing import write_arrays
    >>> data = Digits("target", train=20, val=10, test=10, labelled=10)
    >>> with TemporaryDirectory() as place:
    ...     answers = {"logits": np.zeros((40, 10))}
    ...     known = write_arrays(f"{place}/teacher", data.samples.sample_id, answers, data.classes)
    ...     fused = fuse([known], data, data.domains)
    ...     fused.write(f"{place}/fused").classes[:2], fused.numbers.samples, fused.numbers.known_labels
    (('0', '1'), 30, 10)

    Source: the second of the three steps (knowledge extraction, fusion, distillation) of this project's
    method. That step is named there, not given as a formula; the steps' own sources are at the steps.
    """
    _check(parents, smoothing)
    mean = mean or ArithmeticMean()
    samples = samples_of(source, parents[0], targets, splits)
    group = mean.group([_in_order(parent, source.classes) for parent in parents])
    before = _answers(group, samples.sample_id)
    embedding = None
    if "embedding" in parents[0].arrays:
        embedding = parents[0].rows(samples.sample_id, ["embedding"])["embedding"]
    context = FusionContext(samples.target, samples.label, embedding)
    after = _stepped(steps, before, context)
    known = np.flatnonzero(context.target & (context.label != UNLABELLED))
    size = before.shape[1]
    after[known] = (1 - smoothing) * np.eye(size)[context.label[known]] + smoothing / size
    numbers = numbers_of(before, after, context, _held_out(steps, before, context, known))
    told = {
        "parents": [_told(parent) for parent in parents],
        "mean": _settings(mean),
        "steps": [_settings(step) for step in steps],
        "smoothing": smoothing,
        "targets": list(targets),
        "numbers": asdict(numbers),
    }
    preprocessing = parents[0].content.get("preprocessing")
    return FusedKnowledge(
        sample_id=samples.sample_id,
        logits=np.log(np.maximum(after, FLOOR)),
        embedding=embedding,
        classes=source.classes or group.classes,
        numbers=numbers,
        origin=Origin(",".join(splits), source.fingerprint, preprocessing, told),
    )


def _check(parents: Sequence[Knowledge], smoothing: float) -> None:
    if not parents:
        raise ConfigError(
            where="fuse, parents", found="none", expected="at least one folder of knowledge", fix="name one"
        )
    if not 0 <= smoothing < 1:
        raise ConfigError(
            where="fuse, smoothing", found=smoothing, expected="0 to below 1", fix="leave it out for 0.1"
        )


def _in_order(parent: Knowledge, classes: Sequence[str]) -> Teacher:
    """The parent's answers, in the order of the data's classes."""
    teacher = StoredTeacher(parent.folder)
    if classes and teacher.classes is not None and teacher.classes != tuple(classes):
        return ClassesByName(teacher, classes)
    if classes and teacher.num_classes != len(classes):
        raise TeacherError(
            where=f"fuse, {parent.folder}",
            found=f"answers of {teacher.num_classes} classes without names",
            expected=f"the {len(classes)} classes of the data",
            fix="write the knowledge of a teacher that names its classes",
        )
    return teacher


def _answers(group: Teacher, sample_id: NDArray[np.int64]) -> Floats:
    """Probabilities of the mean."""
    found = []
    for at in range(0, len(sample_id), _ROWS):
        ids = torch.from_numpy(sample_id[at : at + _ROWS])
        batch: Batch = {"inputs": {}, "present": {}, "target": ids, "sample_id": ids, "domain": ids}
        logits = group(batch).logits
        odd = ids[~logits.isfinite().all(dim=1)]
        if len(odd):
            raise CheckpointError(
                where="fuse, answers of the teachers",
                found=f"NaN or infinity for samples {odd[:8].tolist()}",
                expected="numbers",
                fix="look at the teacher's inputs for these samples, and write its knowledge again",
            )
        found.append(logits.double().softmax(dim=1).numpy())
    return np.concatenate(found)


def _stepped(steps: Sequence[FusionStep], probabilities: Floats, context: FusionContext) -> Floats:
    found = probabilities
    for step in steps:
        shape, found = found.shape, np.asarray(step.apply(found, context), np.float64)
        if found.shape != shape or not np.allclose(found.sum(axis=1), 1) or (found < 0).any():
            raise ConfigError(
                where=f"fuse, {type(step).__name__}.apply",
                found=f"an array {found.shape} whose rows do not all add up to 1"
                if found.shape == shape
                else f"an array {found.shape}",
                expected=f"probabilities, an array {shape}",
                fix="divide each row by its sum",
            )
    return found.copy()


def _held_out(
    steps: Sequence[FusionStep], before: Floats, context: FusionContext, known: NDArray[np.int64]
) -> float | None:
    """Share of the known labels that the steps find where they do not see them: each half from the other."""
    hits = 0
    for half in (known[::2], known[1::2]):
        if len(half):
            label = context.label.copy()
            label[half] = UNLABELLED
            found = _stepped(steps, before, replace(context, label=label))
            hits += int((found[half].argmax(axis=1) == context.label[half]).sum())
    return hits / len(known) if len(known) else None


def _told(parent: Knowledge) -> dict[str, Any]:
    """What a parent was: the checksum is that of its knowledge.json, which has those of its arrays."""
    told = {"name": parent.folder.name, "xxh3_64": checksum(parent.folder / CONFIG), "samples": len(parent)}
    return {**told, "fusion": parent.content.get("fusion")}


def _settings(part: TeacherMean | FusionStep) -> dict[str, Any]:
    told = {"class": type(part).__name__, **vars(part)}
    plain: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return plain
