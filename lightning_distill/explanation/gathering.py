"""Everything that can be known of a finished run, gathered."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from torch import Tensor

from lightning_distill import evaluation_checks
from lightning_distill.contribution import Contributions
from lightning_distill.data import MultimodalDataModule
from lightning_distill.errors import DistillError
from lightning_distill.explanation.agreement import agreement
from lightning_distill.explanation.answers import BASELINE, STUDENT, TEACHER, Answers, answers_of
from lightning_distill.explanation.asking import Asked, Said, ask
from lightning_distill.explanation.by_class import by_class
from lightning_distill.explanation.calibration import calibration
from lightning_distill.explanation.curves import read_curves
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.misleading import misleading_samples
from lightning_distill.explanation.shares import shares, unwrapped
from lightning_distill.explanation.similarity import similarity
from lightning_distill.explanation.worth import worth
from lightning_distill.model import MultimodalModel
from lightning_distill.security.safe_yaml import load_yaml
from lightning_distill.security.secrets import redacted_values
from lightning_distill.tasks import Classification, Task
from lightning_distill.teachers import ModelTeacher, Teacher


@dataclass(frozen=True)
class OpenedRun:
    """A finished run and what belongs to it.

    Attributes:
        run: Its folder, with config.yaml, env.json and metrics.csv.
        student: What it has trained.
        teacher: Who taught it; None where there is none, or it cannot be made any more.
        pairs: Students with a teacher, each with its matched baseline; the first student is the run's. Empty
            where there is no baseline.
        data: Of the run.
        task: Of the run.
        left_out: Sentences: what could not be opened, and why.
    """

    run: Path
    student: MultimodalModel
    teacher: Teacher | None
    pairs: tuple[tuple[MultimodalModel, MultimodalModel], ...]
    data: MultimodalDataModule
    task: Task
    left_out: tuple[str, ...] = ()


def gather(opened: OpenedRun, split: str = "test") -> RunFacts:
    """Measure all there is to measure.

    What cannot be made becomes a sentence in `left_out`.

    Args:
        opened: The run.
        split: "val" or "test".

    Raises:
        DistillError: If the student cannot be asked about the split.
    """
    evaluation_checks.split_is_known(split, "report")
    teacher = opened.teacher
    if teacher is not None and teacher.changes:
        kind = type(teacher).__name__
        told = f"Nothing on the teacher: a {kind} changes with the student, and is gone with its training."
        opened = replace(opened, teacher=None, left_out=(*opened.left_out, told))
    return _Gathering(opened, split).facts()


class _Gathering:
    """Makes the parts of `RunFacts`, and notes what is missing.

    Args:
        opened: The run.
        split: "val" or "test".
    """

    def __init__(self, opened: OpenedRun, split: str) -> None:
        self.opened, self.split = opened, split
        self.left_out = list(opened.left_out)

    def facts(self) -> RunFacts:
        """All of them."""
        opened, run = self.opened, self.opened.run
        modalities, parameters = self._sizes()  # first: a teacher that reads from disk forgets its modalities
        said = self._said()
        found = RunFacts(
            run=run,
            split=self.split,
            task=type(opened.task).__name__,
            modalities=modalities,
            parameters=parameters,
            metrics={name: self._metrics(logits, said.target) for name, logits in said.logits.items()},
            curves={},
            answers=None,
            agreement=None,
            classes=(),
            calibration={},
            contributions=self._shares(),
            similarity=None,
            worth=None,
            left_out=(),
            config=_config(run / "config.yaml"),
            environment=_environment(run / "env.json"),
        )
        with self._noted("curves"):
            found = replace(found, curves=read_curves(run / "metrics.csv"))
        if opened.teacher is not None and TEACHER in said.logits:
            with self._noted("similarity of layers"):
                found = replace(
                    found, similarity=similarity(opened.student, opened.teacher, opened.data, self.split)
                )
        found = self._of_classes(found, said)
        return replace(found, left_out=tuple(self.left_out))

    @contextlib.contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        """Turn what goes wrong into a sentence."""
        try:
            yield
        except DistillError as error:
            self.left_out.append(f"No {what}: {error}")

    def _sizes(self) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
        """Modalities and parameters of student and teacher, where known."""
        student, teacher = self.opened.student, self.opened.teacher
        modalities, parameters = {STUDENT: student.modalities}, {STUDENT: _count(student.parameters())}
        if teacher is not None:
            model = unwrapped(teacher)
            count = _count(model.model.parameters() if isinstance(model, ModelTeacher) else teacher.tensors())
            if teacher.requirements:
                modalities[TEACHER] = tuple(teacher.requirements)
            if count:
                parameters[TEACHER] = count
        return modalities, parameters

    def _said(self) -> Said:
        """Logits of student and, as far as they can be asked, of baseline and teacher."""
        opened = self.opened
        models: dict[str, Asked] = {STUDENT: opened.student}
        if opened.pairs:
            models[BASELINE] = opened.pairs[0][1]
        else:
            self.left_out.append(
                "No answer to whether the teacher was worth it: there is no matched baseline; "
                f"`lightning-distill baseline {opened.run}` trains it."
                if opened.teacher is not None
                else "Nothing on a teacher: the run has none that can be asked."
            )
        if opened.teacher is not None:
            with self._noted("answers of the teacher"):
                everyone: dict[str, Asked] = {STUDENT: opened.student, TEACHER: opened.teacher}
                return ask(everyone | models, opened.data, self.split)
        return ask(models, opened.data, self.split)

    def _metrics(self, logits: Tensor, target: Tensor) -> dict[str, float]:
        metrics = self.opened.task.metrics(logits.shape[1])
        metrics.update(logits, target)
        return {name: float(value) for name, value in metrics.compute().items()}

    def _shares(self) -> dict[str, Contributions]:
        """Shapley values of student and teacher, where they have modalities to tell apart."""
        opened = self.opened
        models: dict[str, Asked | None] = {STUDENT: opened.student, TEACHER: opened.teacher}
        found = {}
        for name, model in models.items():
            if model is not None:
                with self._noted(f"contributions of the {name}'s modalities"):
                    found[name] = shares(model, opened.data, opened.task, self.split)
        return {name: told for name, told in found.items() if told is not None}

    def _of_classes(self, found: RunFacts, said: Said) -> RunFacts:
        """What only classifiers have."""
        opened = self.opened
        if not isinstance(opened.task, Classification):
            self.left_out.append(
                "No answers, agreement, classes, calibration and worth of the teacher: they are for "
                f"Classification, and the task is {type(opened.task).__name__}."
            )
            return found
        answers = answers_of(said, self.split, opened.data.classes)
        found = replace(
            found,
            answers=answers,
            classes=by_class(answers),
            calibration={n: calibration(p, answers.target) for n, p in answers.probabilities.items()},
        )
        if TEACHER in said.logits:
            found = replace(found, agreement=agreement(answers))
            with self._noted("training samples on which the teacher misleads"):
                found = replace(found, misleading=self._misleading())
        if opened.pairs:
            with self._noted("worth of the teacher"):
                found = replace(found, worth=worth([answers, *self._other_pairs()]))
        return found

    def _misleading(self) -> tuple[int, ...]:
        opened = self.opened
        assert opened.teacher is not None
        said = ask({STUDENT: opened.student, TEACHER: opened.teacher}, opened.data, "train")
        return misleading_samples(answers_of(said, "train", opened.data.classes))

    def _other_pairs(self) -> Sequence[Answers]:
        data = self.opened.data
        asked = [
            ask({STUDENT: student, BASELINE: baseline}, data, self.split)
            for student, baseline in self.opened.pairs[1:]
        ]
        return [answers_of(said, self.split, data.classes) for said in asked]


def _count(tensors: Iterator[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _config(path: Path) -> str:
    """As `fit` has left it, and without secrets that somebody has written into it since."""
    plain = redacted_values(load_yaml(path.read_text(encoding="utf-8")))
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def _environment(path: Path) -> dict[str, Any]:
    """What the run says of its machine and packages; nothing where that is not there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(redacted_values(found)) if isinstance(found, Mapping) else {}
