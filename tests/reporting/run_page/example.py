"""Facts of an invented run on real digits: they test how facts are shown, not what they are."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from lightning_distill.contribution import Contribution, Contributions
from lightning_distill.data import ImageTextAudioDataModule
from lightning_distill.data.audio import AudioProcessor
from lightning_distill.data.combinations import MultimodalDataModule
from lightning_distill.data.datasets import Digits
from lightning_distill.data.image import ImageProcessor
from lightning_distill.data.text import ByteTextProcessor
from lightning_distill.explanation.agreement import KINDS, Agreement, Example
from lightning_distill.explanation.by_class import ClassAccuracy
from lightning_distill.explanation.calibration import Bin, Calibration
from lightning_distill.explanation.curves import Curve
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings import Finding
from lightning_distill.explanation.similarity import Similarity
from lightning_distill.explanation.worth import Worth

CHANGE = """\
model:
  init_args:
    losses:
      kd: {class_path: LogitKD, init_args: {temperature: 4.0}}
"""


def example_data() -> MultimodalDataModule:
    """All three modalities of the digits that come with the package."""
    processors = {
        "image": ImageProcessor(size=12, channels=1),
        "text": ByteTextProcessor(max_length=32),
        "audio": AudioProcessor(sample_rate=8000, seconds=0.7, mels=32),
    }
    return ImageTextAudioDataModule(Digits(domain="target", train=60, val=20, test=60), processors)


def empty_facts() -> RunFacts:
    """A run without a teacher, a baseline or a line in its history."""
    return RunFacts(
        run=Path("runs/bare"),
        split="test",
        task="Classification",
        modalities={"student": ("image",)},
        parameters={"student": 18_602},
        metrics={"student": {}},
        curves={},
        answers=None,
        agreement=None,
        classes=(),
        calibration={},
        contributions={},
        similarity=None,
        worth=None,
        left_out=(),
        config="",
        environment={},
    )


def example_facts(data: MultimodalDataModule) -> RunFacts:
    """A run with everything."""
    return replace(
        empty_facts(),
        run=Path("runs/digits with a teacher"),
        modalities={"student": ("image",), "teacher": ("image", "text", "audio"), "baseline": ("image",)},
        parameters={"student": 18_602, "teacher": 75_530, "baseline": 18_602},
        metrics={
            "student": {"accuracy": 0.943, "macro_f1": 0.941, "calibration_error": 0.023},
            "teacher": {"accuracy": 0.978, "macro_f1": 0.977, "calibration_error": 0.012},
            "baseline": {"accuracy": 0.761, "macro_f1": 0.752, "calibration_error": 0.094},
        },
        curves=example_curves(),
        agreement=example_agreement(data),
        classes=tuple(_class(i, name) for i, name in enumerate(data.classes)),
        calibration={
            who: _calibration(bias) for who, bias in (("student", 0.03), ("teacher", 0.0), ("baseline", 0.2))
        },
        contributions={
            "student": _contributions(("image",)),
            "teacher": _contributions(("image", "text", "audio")),
        },
        similarity=_similarity(),
        worth=Worth(
            0.943, 0.761, 0.182, 0.161, 0.203, 1, 1000, "The teacher helped: 18.2 points, from 16.1 to 20.3."
        ),
        left_out=(
            "Curves of the learning rate: nothing logs it; add LearningRateMonitor to trainer.callbacks.",
        ),
        config=CHANGE,
        environment={
            "python": "3.11.7",
            "torch": "2.14.1",
            "command": ["lightning-distill", "fit"],
            "wandb_id": None,
        },
    )


def example_findings() -> list[Finding]:
    """One with a change, one with samples, one with words alone."""
    return [
        Finding(
            "cold-teacher",
            "The teacher is colder than it could be",
            "At 2.0 half of its answers\nare sure.",
            CHANGE,
        ),
        Finding(
            "misleading-samples", "The teacher misleads on 3 samples", "See above.", "data: {}\n", (5, 6, 7)
        ),
        Finding("starving-modality", "audio starves", "Its share of the gradient is 2 %.", ""),
    ]


def example_curves() -> dict[str, Curve]:
    """Losses, terms, gradients of three modalities, and one that falls over four powers of ten."""
    steps = tuple(range(19, 2000, 20))

    def falling(name: str, start: float, speed: float) -> Curve:
        values = tuple(start * math.exp(-speed * s / 2000) * (1 + 0.1 * math.sin(s / 40)) for s in steps)
        return Curve(name, steps, values)

    curves = [falling("train/loss", 4.1, 2), falling("train/kd", 4.3, 2), falling("train/task", 1.6, 3)]
    curves += [falling("train/kd_weighted", 3.9, 2), falling("train/task_weighted", 0.16, 3)]
    curves += [falling("gradient_share/kd", 0.9, 0.1), falling("gradient_share/task", 0.12, 0.5)]
    curves += [falling("gradient_cosine/kd", 0.6, 2), falling("lr-AdamW", 0.002, 9)]
    for modality, start in (("image", 2.0), ("text", 0.5), ("audio", 0.05)):
        curves.append(falling(f"clip/norm_before/{modality}", start, 1))
        curves.append(falling(f"clip/clipped_share/{modality}", start / 4, 1))
    epochs = steps[4::10]
    for name, start, end in (
        ("accuracy", 0.7, 0.94),
        ("agreement", 0.6, 0.95),
        ("loss", 1.2, 0.3),
        ("kd", 1.2, 0.4),
    ):
        rise = (end - start) / len(epochs)
        curves.append(Curve(f"val/{name}", epochs, tuple(start + rise * i for i in range(len(epochs)))))
    return {curve.name: curve for curve in curves}


def example_agreement(data: MultimodalDataModule, most: int = 4) -> Agreement:
    """Real rows of the test split; what was said of them is invented."""
    rows = data.rows("test")
    table = data.indexed.samples
    examples = {}
    for k, kind in enumerate(KINDS):
        examples[kind] = tuple(
            Example(
                int(r), int(table.sample_id[r]), int(t), (int(t) + k) % 10, 0.71, (int(t) + k // 2) % 10, 0.93
            )
            for r in rows[k * most : (k + 1) * most]
            for t in [table.target[r]]
        )
    return Agreement(0.951, dict(zip(KINDS, (35, 12, 22, 931), strict=True)), examples)


def _class(index: int, name: str) -> ClassAccuracy:
    student, teacher, baseline = 0.95 - 0.01 * index, 0.98, 0.80 + 0.02 * index
    accuracy = {"student": student, "teacher": teacher, "baseline": baseline}
    return ClassAccuracy(name, index, 100, accuracy, student - baseline, 0.021, index // 3)


def _calibration(bias: float) -> Calibration:
    bins = [
        Bin(i / 15, (i + 1) / 15, (i + 0.5) / 15, max(0.0, (i + 0.5) / 15 - bias), 4 * i * i)
        for i in range(3, 15)
    ]
    return Calibration(bias, tuple(bins))


def _contributions(modalities: tuple[str, ...]) -> Contributions:
    means = {"image": 0.61, "text": 0.32, "audio": -0.05}
    own = {m: means[m] for m in modalities}
    errors = dict.fromkeys(own, 0.012)
    scores = {
        "accuracy": Contribution(0.1, 0.1 + sum(own.values()), own, errors),
        "log_likelihood": Contribution(
            -2.3, -2.3 + 2 * sum(own.values()), {m: 2 * v for m, v in own.items()}, errors
        ),
    }
    return Contributions(modalities, 1000, scores, torch.zeros(0, dtype=torch.int64), {})


def _similarity() -> Similarity:
    student = (
        "encoders.image.blocks.0",
        "encoders.image.blocks.1",
        "encoders.image.blocks.2",
        "fusion",
        "head",
    )
    teacher = (
        *student[:3],
        "encoders.text",
        "encoders.audio.blocks.0",
        "encoders.audio.blocks.1",
        *student[3:],
    )
    far = torch.arange(len(student))[:, None] / len(student) - torch.arange(len(teacher))[None] / len(teacher)
    return Similarity(student, teacher, (1 - far.abs()).double() ** 2, 512)
