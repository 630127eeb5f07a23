"""The two tables of the demo, for a terminal of 80 columns, with or without colour."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lightning_distill.reporting.formatting import MISSING, decimals, mean_and_error, percent
from lightning_distill.reporting.summary import (
    ClipCell,
    FeatureClipStudy,
    StoryRow,
    Summary,
    by_student,
    clip_lines,
    corruption,
)


def story_table(summary: Summary) -> Table:
    """Every model on the target domain's test set, in a section per student.

    Accuracy is mean ± standard error over the seeds, in percent; so is the gap closed.
    """
    seeds = len(summary["seeds"])
    table = _table(f"{summary['title']}\nTarget domain's test set, {_seeds(seeds)}")
    _words(table, "model", "inputs")
    _numbers(table, "params", "ms per\nsample", "accuracy\n%", "agree-\nment %", "ECE")
    for student, rows in by_student(summary["rows"]).items():
        for row in rows:
            table.add_row(*_story_cells(row))
        closed = summary["gap_closed"].get(student)
        if closed is not None:
            share = mean_and_error(closed["mean"], closed["se"], unit="")
            table.add_row(Text(f"{student} gap closed", style="bold"), "", "", "", Text(share, style="bold"))
        table.add_section()
    table.caption = Text(
        "\nagreement: same answer as the teacher; ECE: expected calibration error; "
        "gap closed: from the better of source-only and scratch (0 %) to the ceiling (100 %)"
    )
    return table


def clip_table(summary: Summary) -> Group:
    """What the clip rule does to training, and below it what the feature clip does at test."""
    study = summary["clip"]
    table = _table(f"Test accuracy without and with the clip rule {study['rule']}")
    _words(table, "optimizer")
    _numbers(table, "learning\nrate")
    for data in ("clean data", "1 % broken"):
        _numbers(table, f"{data},\nno rule", f"{data},\nwith rule")
    for line in clip_lines(study):
        cells = [_clip_cell(cell) for cell in line["cells"]]
        table.add_row(Text(line["optimizer"]), f"{line['learning_rate']:g}", *cells)
        table.add_section()
    return Group(table, Text(), feature_clip_table(summary["feature_clip"]))


def feature_clip_table(study: FeatureClipStudy) -> Table:
    """Accuracy on clean and on corrupted inputs, without and with a clip on the fused feature."""
    table = _table(f"Test accuracy without and with the fused-feature clip {study['clip']}")
    _words(table, "test inputs")
    _numbers(table, "no clip", "with clip")
    for inputs, accuracy in (("clean", study["clean"]), (corruption(study), study["corrupted"])):
        table.add_row(Text(inputs), percent(accuracy["without"]), percent(accuracy["with"]))
    return table


def _table(title: str) -> Table:
    """Without edges and with narrow gaps: seven columns have to fit into 80."""
    return Table(
        title=Text(f"{title}\n", style="bold"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        min_width=min(76, max(map(len, title.splitlines()))),
        pad_edge=False,
        collapse_padding=True,
    )


def _words(table: Table, *headers: str) -> None:
    for header in headers:
        table.add_column(header, overflow="fold")


def _numbers(table: Table, *headers: str) -> None:
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True, overflow="fold")


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"mean ± standard error over {count} seeds"


def _story_cells(row: StoryRow) -> list[str | Text]:
    return [
        Text(row["name"]),
        Text(",\n".join(row["modalities"])),
        f"{row['params']:,}",
        decimals(row["ms_per_sample"]),
        mean_and_error(row["accuracy_mean"], row["accuracy_se"], unit=""),
        percent(row["agreement"]).removesuffix(" %"),
        decimals(row["ece"]),
    ]


def _clip_cell(cell: ClipCell | None) -> str:
    if cell is None:
        return MISSING
    step = cell.get("stopped_at_step")
    stopped = "" if step is None else f"\nstopped at\nstep {step}"
    return percent(cell["accuracy"]) + stopped
