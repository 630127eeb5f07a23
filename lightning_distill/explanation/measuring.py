"""What a split of the data tells of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from lightning_distill.contribution import Contributions
from lightning_distill.data import CrossDomainDataModule
from lightning_distill.explanation.agreement import agreement
from lightning_distill.explanation.answers import BASELINE, STUDENT, TEACHER, Answers, answers_of
from lightning_distill.explanation.asking import Asked, Said, ask, both
from lightning_distill.explanation.by_class import by_class
from lightning_distill.explanation.calibration import calibration
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings.overlay import RunConfig
from lightning_distill.explanation.misleading import Misleading, misleading_samples
from lightning_distill.explanation.noted import noted
from lightning_distill.explanation.opened_run import OpenedRun
from lightning_distill.explanation.shares import shares
from lightning_distill.explanation.similarity import similarity
from lightning_distill.explanation.target_domain import TargetRows, narrowed, only_on_target
from lightning_distill.explanation.worth import worth
from lightning_distill.tasks import Classification
from lightning_distill.teachers import Teacher


class Measuring:
    """Asks the models of a run, and notes what cannot be asked.

    Args:
        opened: The run.
        teacher: Who can be asked now.
        config: Of the run.
        split: "val" or "test".

    Attributes:
        left_out: Sentences: what is missing, and why.
    """

    def __init__(self, opened: OpenedRun, teacher: Teacher | None, config: RunConfig, split: str) -> None:
        self.opened, self.teacher, self.config, self.split = opened, teacher, config, split
        self.data = opened.data
        self.left_out: list[str] = []

    def measured(self, found: RunFacts) -> RunFacts:
        """All that the split tells.

        Args:
            found: What is known already.

        Raises:
            DistillError: If the student cannot be asked about the split.
        """
        opened = self.opened
        self.data, domains, told = narrowed(opened.data, self.split)
        self.left_out.extend([told] if told else [])
        own = self._said()
        joint = self._with_teacher(own)
        asked = [(name, own if name in own.logits else joint) for name in (joint or own).logits]
        found = replace(
            found,
            domains=domains,
            metrics={name: self._metrics(said.logits[name], said.target) for name, said in asked if said},
            contributions=self._shares(),
        )
        if self.teacher is not None and joint is not None:
            with noted(self.left_out, "similarity of layers", Exception):
                alike = similarity(opened.student, self.teacher, self.data, self.split)
                found = replace(found, similarity=alike)
        return self._of_classes(found, own, joint)

    def _said(self) -> Said:
        """Logits of the student and, where it can be asked, of the baseline."""
        opened = self.opened
        models: dict[str, Asked] = {STUDENT: opened.student}
        if opened.pairs:
            with noted(self.left_out, "answers of the baseline"):
                return ask(models | {BASELINE: opened.pairs[0][1]}, self.data, self.split)
        return ask(models, self.data, self.split)

    def _with_teacher(self, own: Said) -> Said | None:
        """The same and the teacher's, of the samples that the teacher can read too."""
        if self.teacher is None:
            return None
        with noted(self.left_out, "answers of the teacher", Exception):
            theirs = ask({TEACHER: self.teacher}, self.data, self.split, self.opened.student)
            joint = both(own, theirs)
            lost = len(own.rows) - len(joint.rows)
            if lost:
                self.left_out.append(
                    f"{lost:,} of {len(own.rows):,} labelled samples are not in what is told of the teacher, "
                    "agreement, classes and calibration: the teacher cannot read them. The metrics of the "
                    "other models are of all."
                )
            names = [name for name in (STUDENT, TEACHER, BASELINE) if name in joint.logits]
            return replace(joint, logits={name: joint.logits[name] for name in names})
        return None

    def _metrics(self, logits: Tensor, target: Tensor) -> dict[str, float]:
        metrics = self.opened.task.metrics(logits.shape[1])
        metrics.update(logits, target)
        return {name: float(value) for name, value in metrics.compute().items()}

    def _shares(self) -> dict[str, Contributions]:
        """Shapley values of student and teacher, where they have modalities to tell apart."""
        models: dict[str, Asked | None] = {STUDENT: self.opened.student, TEACHER: self.teacher}
        found = {}
        for name, model in models.items():
            if model is not None:
                with noted(self.left_out, f"contributions of the {name}'s modalities", Exception):
                    found[name] = shares(model, self.data, self.opened.task, self.split)
        return {name: told for name, told in found.items() if told is not None}

    def _of_classes(self, found: RunFacts, own: Said, joint: Said | None) -> RunFacts:
        """What only classifiers have."""
        opened = self.opened
        if not isinstance(opened.task, Classification):
            self.left_out.append(
                "No answers, agreement, classes, calibration and worth of the teacher: they are for "
                f"Classification, and the task is {type(opened.task).__name__}."
            )
            return found
        answers = answers_of(joint or own, self.split, opened.data.classes)
        found = replace(
            found,
            answers=answers,
            classes=by_class(answers),
            calibration={n: calibration(p, answers.target) for n, p in answers.probabilities.items()},
        )
        if joint is not None:
            found = replace(found, agreement=agreement(answers))
            with noted(self.left_out, "training samples on which the teacher misleads", Exception):
                ids, count = self._misleading()
                found = replace(found, misleading=ids, misleading_count=count)
        if BASELINE in own.logits:
            with noted(self.left_out, "worth of the teacher"):
                # Of what student and baseline read: the teacher has no say in which samples that are.
                first = answers_of(own, self.split, opened.data.classes)
                found = replace(found, worth=worth([first, *self._other_pairs()]))
        return found

    def _misleading(self) -> Misleading:
        data = self.opened.data
        if only_on_target(self.config):
            if not isinstance(data, CrossDomainDataModule):
                self.left_out.append(
                    "No training samples on which the teacher misleads: every term sees the target domain "
                    f"alone, and of a {type(data).__name__} it is not known which rows these are."
                )
                return Misleading()
            data = TargetRows(data)
        assert self.teacher is not None
        said = ask({TEACHER: self.teacher}, data, "train", self.opened.student)
        return misleading_samples(answers_of(said, "train", data.classes))

    def _other_pairs(self) -> Sequence[Answers]:
        asked = [
            ask({STUDENT: student, BASELINE: baseline}, self.data, self.split)
            for student, baseline in self.opened.pairs[1:]
        ]
        return [answers_of(said, self.split, self.data.classes) for said in asked]
