"""All that is known of a finished run, for the report, for findings and for comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_distill.contribution import Contributions
from lightning_distill.explanation.agreement import Agreement
from lightning_distill.explanation.answers import Answers
from lightning_distill.explanation.by_class import ClassAccuracy
from lightning_distill.explanation.calibration import Calibration
from lightning_distill.explanation.curves import Curve
from lightning_distill.explanation.similarity import Similarity
from lightning_distill.explanation.worth import Worth


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run; what does not apply to it, or was not made, is None or empty.

    Attributes:
        run: Its folder.
        split: Of the data that all below was measured on.
        task: Name of the task's class.
        modalities: student, teacher -> modalities it reads.
        parameters: student, teacher -> how many.
        metrics: student, teacher, baseline -> name -> value on the split.
        curves: Name -> curve.
        answers: Of classifiers only.
        agreement: With a teacher.
        classes: One entry a class.
        calibration: student, teacher, baseline -> calibration.
        contributions: student, teacher -> Shapley values; of models of two modalities or more.
        similarity: With a teacher whose layers can be read.
        worth: With a baseline.
        left_out: Sentences: what is missing here, and why, with what would bring it.
        config: The run's config.yaml, as text, without secrets.
        environment: Content of env.json.
        misleading: Ids of training samples on which the teacher is sure of another class than the label; of
            many only the clearest.
        misleading_count: How many such samples there are.
        domains: Of data with several, those that all was measured on; empty where all of them count.
        worth_unknown: Where `worth` is None, a sentence that says why.
        no_baseline: Whether a baseline that could be trained would tell it.
    """

    run: Path
    split: str
    task: str
    modalities: dict[str, tuple[str, ...]]
    parameters: dict[str, int]
    metrics: dict[str, dict[str, float]]
    curves: dict[str, Curve]
    answers: Answers | None
    agreement: Agreement | None
    classes: tuple[ClassAccuracy, ...]
    calibration: dict[str, Calibration]
    contributions: dict[str, Contributions]
    similarity: Similarity | None
    worth: Worth | None
    left_out: tuple[str, ...]
    config: str
    environment: dict[str, Any]
    misleading: tuple[int, ...] = ()
    misleading_count: int = 0
    domains: tuple[str, ...] = ()
    worth_unknown: str = ""
    no_baseline: bool = False
