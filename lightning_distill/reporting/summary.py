"""The facts that every report is made from, and their JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

from lightning_distill.reporting.atomic import write_json

TEACHER = "teacher"


class Domain(TypedDict):
    """What one modality looks like in the two domains."""

    modality: str
    source: str
    target: str


class StoryRow(TypedDict):
    """One model on the target domain's test set; accuracies and agreement are fractions.

    A student's name begins with its modality: `image distilled`.
    """

    name: str
    modalities: list[str]
    params: int
    ms_per_sample: float
    accuracy_mean: float
    accuracy_se: float | None
    accuracies: list[float]
    agreement: float
    ece: float


class GapClosed(TypedDict):
    """Share of the gap between the better of source-only and scratch and the ceiling."""

    mean: float
    se: float | None
    values: list[float]


class ClipCell(TypedDict):
    """One training of the clip study; `stopped_at_step` where its loss became NaN or infinite."""

    optimizer: str
    learning_rate: float
    broken: bool
    clipped: bool
    accuracy: float
    stopped_at_step: NotRequired[int | None]


class ClipStudy(TypedDict):
    """The same training with and without a clip rule."""

    rule: str
    cells: list[ClipCell]


# "with" is a Python keyword, so this one cannot be written as a class.
WithAndWithout = TypedDict("WithAndWithout", {"without": float, "with": float})


class FeatureClipStudy(TypedDict):
    """Test accuracy with a share of one modality's input features at plus or minus a value."""

    clip: str
    modality: str
    share: float
    value: float
    clean: WithAndWithout
    corrupted: WithAndWithout


class Summary(TypedDict):
    """Everything that tables, picture and page show."""

    title: str
    version: str
    command: str
    seconds: float
    seeds: list[int]
    settings: dict[str, str | int | float]
    data: list[Domain]
    rows: list[StoryRow]
    gap_closed: dict[str, GapClosed]
    clip: ClipStudy
    feature_clip: FeatureClipStudy
    notes: list[str]
    next: str


def by_student(rows: list[StoryRow]) -> dict[str, list[StoryRow]]:
    """Rows under the first word of their names, in order; the teacher stands for itself."""
    groups: dict[str, list[StoryRow]] = {}
    for row in rows:
        groups.setdefault(row["name"].partition(" ")[0], []).append(row)
    return groups


class ClipLine(TypedDict):
    """The four trainings of one optimizer and learning rate; None where one was not run."""

    optimizer: str
    learning_rate: float
    cells: list[ClipCell | None]


def clip_lines(study: ClipStudy) -> list[ClipLine]:
    """One line per optimizer and learning rate, in order.

    Returns:
        Cells as clean without the rule, clean with it, broken without, broken with.
    """
    lines: dict[tuple[str, float], ClipLine] = {}
    for cell in study["cells"]:
        name, rate = cell["optimizer"], cell["learning_rate"]
        new = ClipLine(optimizer=name, learning_rate=rate, cells=[None] * 4)
        lines.setdefault((name, rate), new)["cells"][2 * cell["broken"] + cell["clipped"]] = cell
    return list(lines.values())


def corruption(study: FeatureClipStudy) -> str:
    """What was done to the inputs, in words."""
    return f"{100 * study['share']:g} % of {study['modality']} features at ±{study['value']:g}"


def save_summary(summary: Summary, path: Path | str) -> Path:
    """Write the facts as JSON; NaN and infinity, which JSON has no word for, become null."""
    return write_json(path, summary)
