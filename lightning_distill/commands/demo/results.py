"""From single trainings to the summary that tables, picture and page show."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from lightning_distill import __version__
from lightning_distill.commands.demo import constants as c
from lightning_distill.commands.demo.records import FEATURE_CLIP_PAIR, Result
from lightning_distill.reporting import ClipCell, Domain, FeatureClipStudy, GapClosed, StoryRow, Summary

if TYPE_CHECKING:
    from lightning_distill.commands.demo.jobs import Finished

DOMAINS = [
    Domain(modality="image", source="MNIST handwriting", target="optdigits handwriting"),
    Domain(
        modality="text",
        source="number words of 59 languages",
        target="of 19 languages the source does not have",
    ),
    Domain(
        modality="audio",
        source="synthetic speech in five accents of English",
        target="synthetic speech in Caribbean, Scottish and West Midlands English, through a telephone band "
        "(300 to 3400 Hz) with white noise at 15 dB",
    ),
]


def summarise(finished: Finished, seeds: Sequence[int], steps: int, seconds: float) -> Summary:
    """Put everything into one summary."""
    rows = story_rows([finished.rows[seed] for seed in seeds])
    gaps = {student: gap_closed(rows, student) for student in c.STUDENTS}
    by_cell = {result.cell: result for result in finished.cells}
    without, with_clip = (by_cell[cell] for cell in FEATURE_CLIP_PAIR)
    feature = FeatureClipStudy(
        clip=f"HardClip(epsilon={c.FEATURE_EPSILON})",
        modality=c.BROKEN_MODALITY,
        share=c.CORRUPTED_SHARE,
        value=c.CORRUPTED_VALUE,
        clean={"without": without.accuracy, "with": with_clip.accuracy},
        corrupted={
            "without": without.corrupted_accuracy or 0.0,
            "with": with_clip.corrupted_accuracy or 0.0,
        },
    )
    cells = [
        ClipCell(
            optimizer=result.cell.optimizer,
            learning_rate=result.cell.learning_rate,
            broken=result.cell.broken,
            clipped=result.cell.clipped,
            accuracy=result.accuracy,
            stopped_at_step=result.stopped_at_step,
        )
        for result in finished.cells
        if not result.cell.feature_clip
    ]
    return Summary(
        title="From three labelled modalities to one in a new domain",
        version=__version__,
        command="lightning-distill demo",
        seconds=round(seconds, 1),
        seeds=list(seeds),
        settings=_settings(steps),
        data=DOMAINS,
        rows=rows,
        gap_closed=gaps,
        clip={"rule": f"ValueClip(epsilon={c.EPSILON})", "cells": cells},
        feature_clip=feature,
        notes=[*_story_notes(rows, gaps), *_clip_notes(cells, feature)],
        next="lightning-distill fit --config configs/experiment/digits_teacher.yaml",
    )


def story_rows(seeds: Sequence[Sequence[Result]]) -> list[StoryRow]:
    """Mean and standard error over the seeds, row by row."""
    rows = []
    for runs in zip(*seeds, strict=True):
        accuracies = [run.accuracy for run in runs]
        rows.append(
            StoryRow(
                name=runs[0].name,
                modalities=list(runs[0].modalities),
                params=runs[0].params,
                ms_per_sample=fmean(run.ms_per_sample for run in runs),
                accuracy_mean=fmean(accuracies),
                accuracy_se=standard_error(accuracies),
                accuracies=accuracies,
                agreement=fmean(run.agreement for run in runs),
                ece=fmean(run.ece for run in runs),
            )
        )
    return rows


def gap_closed(rows: Sequence[StoryRow], student: str) -> GapClosed:
    """(distilled - best) / (ceiling - best) a seed; best is the better of source-only and scratch."""
    per = {row["name"]: row["accuracies"] for row in rows}
    names = (f"{student} {kind}" for kind in ("source-only", "scratch", "distilled", "ceiling"))
    values = []
    for source_only, scratch, distilled, ceiling in zip(*(per[name] for name in names), strict=True):
        best = max(source_only, scratch)
        values.append((distilled - best) / (ceiling - best) if ceiling > best else float("nan"))
    return GapClosed(mean=fmean(values), se=standard_error(values), values=values)


def standard_error(values: Sequence[float]) -> float | None:
    """Sample standard deviation over the root of the count; None for one value, or where one is not finite.

    >>> round(standard_error([1.0, 2.0, 3.0]), 4)
    0.5774
    """
    if len(values) < 2 or not all(map(isfinite, values)):
        return None
    return stdev(values) / len(values) ** 0.5


def _settings(steps: int) -> dict[str, str | int | float]:
    return {
        "optimizer steps a training": steps,
        "optimizer steps a training, clip table": min(steps, c.CLIP_STEPS),
        "audio encoder of the clip table": "without group normalisation",
        "batch size": c.BATCH_SIZE,
        "optimizer": f"AdamW, one-cycle learning rate up to {c.LEARNING_RATE}",
        "target labels": c.LABELS,
        "labelled samples added to a distillation batch": c.LABELLED_PER_BATCH,
        "distillation": f"logits, T = {c.TEMPERATURE}, alpha = {c.ALPHA}",
        "teacher": f"concatenation, HardClip({c.FEATURE_EPSILON}), modality dropout {c.MODALITY_DROPOUT}",
        "clip rules of 'distilled + clip'": f"ValueClip({c.EPSILON}), HardClip({c.FEATURE_EPSILON})",
        "broken training samples": f"{c.BROKEN_SHARE:.0%}: {c.BROKEN_MODALITY} feature times "
        f"{c.BROKEN_FACTOR:g} after normalisation, random label",
    }


def _story_notes(rows: Sequence[StoryRow], gaps: dict[str, GapClosed]) -> list[str]:
    per = {row["name"]: row for row in rows}
    notes = []
    for student in c.STUDENTS:
        plain, clipped = per[f"{student} distilled"], per[f"{student} distilled + clip"]
        change = 100 * (clipped["accuracy_mean"] - plain["accuracy_mean"])
        closed = gaps[student]["mean"]
        gap = f"closes {closed:.0%} of the gap to all labels" if isfinite(closed) else "has no gap to close"
        notes.append(
            f"{student} student: distillation {gap}; "
            f"the clip rules change it by {change:+.1f} points on these clean data."
        )
    return [*notes, "Triples are paired by class, not recorded together, and the speech is synthetic."]


def _clip_notes(cells: Sequence[ClipCell], feature: FeatureClipStudy) -> list[str]:
    at = {(x["optimizer"], x["learning_rate"], x["broken"], x["clipped"]): x["accuracy"] for x in cells}
    notes = []
    for optimizer, rate, faults in c.CLIP_GRID:
        changes = []
        for broken in faults:
            before, after = (100 * at[optimizer, rate, broken, clipped] for clipped in (False, True))
            changes.append(f"{'broken' if broken else 'clean'} data from {before:.1f} to {after:.1f} %")
        notes.append(f"{optimizer} at {rate:g}: the rule takes {' and '.join(changes)}.")
    without, within = (100 * feature["corrupted"][key] for key in ("without", "with"))
    notes.append(
        f"With {feature['share']:.0%} of the {feature['modality']} inputs at ±{feature['value']:g}, a "
        f"clipped fused feature keeps {within:.1f} % right instead of {without:.1f} %."
    )
    return notes
