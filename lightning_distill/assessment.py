"""Will this teacher help? A verdict before any student is trained, with its evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from torch import Tensor
from torch.nn import functional as F

from lightning_distill.readability import (
    calibration_error,
    check_rows,
    explained,
    general_share,
    linear_cka,
    rank_agreement,
    read_out,
)
from lightning_distill.structures import ModelOutput

__all__ = [
    "Signal",
    "Verdict",
    "assess",
    "calibration_error",
    "general_share",
    "linear_cka",
    "rank_agreement",
    "signal",
]

Word = Literal["helps", "little", "harms or cannot tell"]

HELPS: Final = 0.1
"""Expected help from which on the word is "helps"; a judgement, not a law."""


@dataclass(frozen=True)
class Verdict:
    """Whether a teacher is worth distilling from.

    Attributes:
        expected_help: To rank by, in [-1, 1]; above 0 where the teacher's answers, as seen from the student's
            modality, hold more signal than the labels do. It is not a gain in accuracy.
        word: "helps" from `HELPS` on, "little" down to 0, else "harms or cannot tell".
        evidence: One sentence each.
        measures: Name -> number.
    """

    expected_help: float
    word: Word
    evidence: tuple[str, ...]
    measures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Signal:
    """What the student's modality can tell of answers and of labels.

    Attributes:
        taught: R^2 of the teacher's probabilities.
        told: R^2 of the labels.
        bearing: How much of `told` the readable part of the teacher's answers gives, in [0, 1].
        labelled_share: Of the training samples.
    """

    taught: float
    told: float
    bearing: float
    labelled_share: float = 1.0

    @property
    def expected_help(self) -> float:
        """See `signal`."""
        return self.taught * self.bearing - self.labelled_share * self.told


def signal(features: Tensor, teacher: Tensor, target: Tensor, labelled_share: float = 1.0) -> Signal:
    r"""Compare what a student can take from its teacher with what it can take from labels.

    A student can take over only what its modality can express of the teacher's answer; the rest is noise to
    it, as is that part of a label that its modality cannot tell. So

        expected help = R^2(p_t | x) * min(1, R^2(y | r_t) / R^2(y | x)) - labelled_share * R^2(y | x)

    x are the student's features, y one-hot labels, p_t the teacher's probabilities, r_t what is read of p_t
    from x. The ratio asks whether that part bears on the labels: a teacher may be easy to read and wrong.
    Training samples without a label have no signal but the teacher's. R^2 is cross-validated throughout
    (`read_out`). The score is our own.

    Args:
        features: Of the student's modality, "samples dim"; 20 samples or more.
        teacher: Its logits, "samples classes".
        target: int64 "samples", all known.
        labelled_share: Of the training samples.

    Raises:
        ConfigError: If there are fewer than 20 samples, or the numbers of samples differ.
    """
    check_rows(features, teacher, 20)
    check_rows(features, target, 20)
    answers, width = teacher.double().softmax(dim=1), teacher.shape[1]
    truth = F.one_hot(target, width).double()
    read = read_out(features, answers)
    told = explained(read_out(features, truth), truth)
    bearing = explained(read_out(read, truth), truth)
    fit = min(1.0, bearing / told) if told > 0 else 0.0
    return Signal(explained(read, answers), told, fit, labelled_share)


def assess(
    features: Tensor,
    teacher: ModelOutput,
    target: Tensor,
    labelled_share: float = 1.0,
    student: Tensor | None = None,
) -> Verdict:
    """Judge a teacher before training.

    Args:
        features: Of the student's modality, "samples dim"; 20 samples or more, better 1000 that neither
            teacher nor student was trained on.
        teacher: What it says of the samples.
        target: int64 "samples", all known.
        labelled_share: Of the training samples.
        student: Logits of a student trained on labels only, where there is one.

    Raises:
        ConfigError: If there are fewer than 20 samples, or the numbers of samples differ.
    """
    logits = teacher.logits
    found = signal(features, logits, target, labelled_share)
    measures = {
        "general_share": general_share(features, logits),
        "answers_read": found.taught,
        "labels_read": found.told,
        "bearing": found.bearing,
        "labelled_share": labelled_share,
        "cka": linear_cka(features, logits if teacher.embedding is None else teacher.embedding),
        "teacher_accuracy": _accuracy(logits, target),
        "teacher_calibration_error": calibration_error(logits, target),
    }
    if student is not None:
        measures["student_accuracy"] = _accuracy(student, target)
        measures["rank_agreement"] = rank_agreement(logits, student)
    score = found.expected_help
    word: Word = "helps" if score >= HELPS else "little" if score > 0 else "harms or cannot tell"
    return Verdict(score, word, _evidence(measures), measures)


def _accuracy(logits: Tensor, target: Tensor) -> float:
    return float((logits.argmax(dim=1) == target).double().mean())


def _evidence(m: dict[str, float]) -> tuple[str, ...]:
    lines = [
        f"{m['answers_read']:.0%} of the teacher's answers can be read from the student's modality, "
        f"and {m['labels_read']:.0%} of the labels.",
        f"Of what can be read of the labels, {m['bearing']:.0%} can be read of these answers too.",
        f"{m['labelled_share']:.0%} of the training samples have a label.",
        f"{m['general_share']:.0%} of the teacher's logits are modality-general; CKA of the student's "
        f"features with the teacher's is {m['cka']:.2f}.",
        f"The teacher is right in {m['teacher_accuracy']:.1%}; its calibration error is "
        f"{m['teacher_calibration_error']:.1%}.",
    ]
    if "student_accuracy" in m:
        lines.append(
            f"The student trained on labels is right in {m['student_accuracy']:.1%}; its order of the "
            f"classes agrees with the teacher's with a tau of {m['rank_agreement']:.2f}."
        )
    return tuple(lines)
