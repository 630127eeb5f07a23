"""Everything that can be known of a finished run, gathered."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lightning_distill import evaluation_checks
from lightning_distill.data import StreamSource
from lightning_distill.explanation.answers import STUDENT, TEACHER
from lightning_distill.explanation.curves import read_curves
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings.overlay import RunConfig
from lightning_distill.explanation.measuring import Measuring
from lightning_distill.explanation.noted import noted
from lightning_distill.explanation.opened_run import OpenedRun
from lightning_distill.explanation.run_files import config_text, environment
from lightning_distill.explanation.shares import unwrapped
from lightning_distill.tasks import Classification
from lightning_distill.teachers import ModelTeacher


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
    return _Gathering(opened, split).facts()


class _Gathering:
    """Makes the parts of `RunFacts`, and notes what is missing.

    Args:
        opened: The run.
        split: "val" or "test".
    """

    def __init__(self, opened: OpenedRun, split: str) -> None:
        self.opened, self.split, self.teacher = opened, split, opened.teacher
        self.left_out = list(opened.left_out)
        text = config_text(opened.run / "config.yaml")
        self.text, self.config = text, RunConfig(text)
        if opened.teacher is not None and opened.teacher.changes:
            self.teacher = None
            kind = type(opened.teacher).__name__
            self.left_out.append(
                f"Nothing on the teacher: a {kind} changes with the student, and is gone with its training."
            )

    def facts(self) -> RunFacts:
        """All of them."""
        opened, run = self.opened, self.opened.run
        modalities, parameters = self._sizes()  # first: a teacher that reads from disk forgets its modalities
        found = RunFacts(
            run=run,
            split=self.split,
            task=type(opened.task).__name__,
            modalities=modalities,
            parameters=parameters,
            metrics={},
            curves={},
            answers=None,
            agreement=None,
            classes=(),
            calibration={},
            contributions={},
            similarity=None,
            worth=None,
            left_out=(),
            config=self.text,
            environment=environment(run / "env.json"),
        )
        with noted(self.left_out, "curves"):
            found = replace(found, curves=read_curves(run / "metrics.csv"))
        if isinstance(opened.data.source, StreamSource):
            self.left_out.append(
                "Nothing is measured on the split: the data are a stream, whose samples have no rows to "
                f"name. `lightning-distill evaluate {_quoted(run)}` tests the run."
            )
        else:
            measuring = Measuring(opened, self.teacher, self.config, self.split)
            found = measuring.measured(found)
            self.left_out += measuring.left_out
        unknown, no_baseline = ("", False) if found.worth is not None else self._worth_unknown()
        return replace(found, worth_unknown=unknown, no_baseline=no_baseline, left_out=tuple(self.left_out))

    def _sizes(self) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
        """Modalities and parameters of student and teacher, where known."""
        student, teacher = self.opened.student, self.teacher
        modalities, parameters = {STUDENT: student.modalities}, {STUDENT: _count(student.parameters())}
        if teacher is not None:
            model = unwrapped(teacher)
            count = _count(model.model.parameters() if isinstance(model, ModelTeacher) else teacher.tensors())
            if teacher.requirements:
                modalities[TEACHER] = tuple(teacher.requirements)
            if count:
                parameters[TEACHER] = count
        return modalities, parameters

    def _worth_unknown(self) -> tuple[str, bool]:
        """Why it cannot be told whether the teacher was worth it; whether a baseline would tell."""
        opened, task, here = self.opened, self.opened.task, 'see "What is not here"'
        taught = opened.teacher is not None or opened.pairs or self.config.module.get("teacher")
        if not taught:
            self.left_out.append("Nothing on a teacher: the run has none that can be asked.")
            return "This run has no teacher.", False
        if not isinstance(task, Classification):
            return f"It is measured for classifiers only, and the task is {type(task).__name__}.", False
        if isinstance(opened.data.source, StreamSource):
            return "It is not measured on streams.", False
        if opened.pairs or (opened.run / "baseline" / "student").is_dir():
            return f"There is a baseline, but it could not be compared: {here}.", False
        self.left_out.append(
            "No answer to whether the teacher was worth it: there is no matched baseline; "
            f"`lightning-distill baseline {_quoted(opened.run)}` trains it."
        )
        gone = "" if self.teacher is not None else f"The teacher cannot be asked any more ({here}). "
        return (
            f"{gone}Nobody knows yet: there is no baseline, the same student trained without the teacher.",
            True,
        )


def _quoted(run: Path) -> str:
    return shlex.quote(str(run))


def _count(tensors: Iterator[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
