"""What the doctor prints, for a terminal of 80 columns, with or without colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_distill.commands.doctor.batch import Estimate
from lightning_distill.commands.doctor.domain_distances import ALIKE, FAR, Distances
from lightning_distill.commands.doctor.domain_features import ROWS
from lightning_distill.commands.doctor.domains import DomainCount
from lightning_distill.commands.doctor.files import Measures
from lightning_distill.commands.doctor.findings import Finding, Findings, Level
from lightning_distill.commands.doctor.samples import SplitCount
from lightning_distill.errors import printable

_CLASSES: Final = 20
_STYLES: Final[dict[Level, str]] = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}


def print_counts(console: Console, counts: Sequence[SplitCount], classes: Sequence[str]) -> None:
    """A line a split, and samples of each class."""
    if not counts:
        return
    table = _table("Samples", "split", "samples", "labelled", "with")
    for count in counts:
        told = ", ".join(f"{'+'.join(names) or 'nothing'} {n:,}" for names, n in count.combinations.items())
        table.add_row(count.split, f"{count.samples:,}", f"{count.labelled:,}", Text(told))
    console.print(table)
    console.print()
    if not any(count.per_class for count in counts):
        return
    table = _table("Samples of each class", "class", *(count.split for count in counts))
    for at, name in enumerate(classes[:_CLASSES]):
        table.add_row(Text(printable(name, 40)), *(_class(count, at) for count in counts))
    if len(classes) > _CLASSES:
        table.add_row(f"and {len(classes) - _CLASSES} more")
    console.print(table)
    console.print()


def _class(count: SplitCount, at: int) -> str:
    return f"{count.per_class[at]:,}" if count.per_class else ""


def print_domains(console: Console, counts: Sequence[DomainCount]) -> None:
    """A line a domain."""
    if not counts:
        return
    table = _table(
        "Domains: passes of an epoch over the training samples, and their modalities",
        "domain",
        "role",
        "train",
        "labelled",
        "val",
        "test",
        "passes",
        "with",
    )
    for count in counts:
        some = {m: "" if n == count.train.samples else f" {n:,}" for m, n in count.modalities.items() if n}
        told = ", ".join(f"{m}{n}" for m, n in some.items())
        sizes = [f"{n:,}" for n in (count.train.samples, count.train.labelled)]
        sizes += [f"{count.splits[split].samples:,}" for split in ("val", "test")]
        role = "target" if count.target else "source"
        table.add_row(Text(printable(count.name, 40)), role, *sizes, f"{count.passes:.1f}", Text(told))
    console.print(table)
    console.print()


def print_distances(console: Console, distances: Distances | None) -> None:
    """A line a modality, and what the numbers mean."""
    if distances is None or not distances.all:
        return
    table = _table("Distances between domains", "domains", "modality", "rows", "A-distance", "MMD", "p", "")
    for found in distances.all:
        a, mmd = found.a_distance, found.mmd
        names = Text(printable(f"{found.source}, {found.target}", 60))
        numbers = (f"{a.rows}", f"{a.distance:.2f} ± {a.standard_error:.2f}", f"{mmd.value:.4f}")
        table.add_row(names, found.modality, *numbers, f"{mmd.p_value:.2f}", found.verdict)
    console.print(table)
    what = "; ".join(f"{modality}: {told}" for modality, told in distances.compared.items())
    fewer = (
        f", fewer than {ROWS} a domain, since reading was stopped after 10 s" if distances.cut_short else ""
    )
    console.print(
        Text(
            f"Compared: {what}; training rows without augmentation, copies counted once{fewer}.\n"
            "A-distance, with its standard error: 0 if a linear classifier cannot tell unseen rows of "
            f"the two domains apart, 2 if it always can. Called alike below {ALIKE} and far apart above "
            f"{FAR}, by one standard error: rules of thumb. MMD is squared and unbiased; p is the chance of "
            "one as large without a difference.",
            style="dim",
        )
    )
    console.print()


def print_measures(console: Console, measures: Measures | None) -> None:
    """Least, median and most of everything that was measured."""
    if measures is None:
        return
    title = f"{measures.samples:,} of {measures.of:,} samples read"
    table = _table(title, "measure", "samples", "least", "median", "most")
    for name, values in measures.values.items():
        if " cut at " in name:
            table.add_row(name, f"{len(values):,}", "", f"{np.mean(values):.1%}", "")
        else:
            numbers = (min(values), float(np.median(values)), max(values))
            table.add_row(name, f"{len(values):,}", *map(_number, numbers))
    console.print(table)
    console.print()


def print_estimate(console: Console, estimate: Estimate | None, epochs: int | None) -> None:
    """Time and memory."""
    if estimate is None:
        return
    table = _table(f"Estimate, from a few steps on {estimate.device}", "what", "value")
    if estimate.epoch is not None:
        whole = f", {_time(epochs * estimate.epoch)} for {epochs} epochs" if epochs and epochs > 0 else ""
        told = f"{_time(estimate.epoch)} (batches: {estimate.batches:,}){whole}"
        table.add_row("training, an epoch", told)
    read, step = _time(estimate.read), _time(estimate.step)
    table.add_row("a batch", f"{read} to read in one process, {step} to train on")
    table.add_row("trained parameters", _memory(estimate.parameters))
    table.add_row("their gradients", _memory(estimate.parameters))
    table.add_row("optimizer state", _memory(estimate.state))
    if estimate.teacher:
        table.add_row("teacher", _memory(estimate.teacher))
    if estimate.kept:
        table.add_row(
            "samples in memory", f"{_memory(estimate.kept)}, {_time(estimate.once)} to read them once"
        )
    table.add_row("peak of this process", _memory(estimate.peak))
    table.columns[1].justify = "left"
    console.print(table)
    console.print()


def print_findings(console: Console, findings: Findings) -> None:
    """All of them, errors first, and a summary."""
    for level in ("error", "warning", "note"):
        for finding in findings.all:
            if finding.level == level:
                console.print(_finding(finding))
    errors, warnings, notes = (findings.count(level) for level in ("error", "warning", "note"))
    told = f"{_plural(errors, 'error')}, {_plural(warnings, 'warning')}, {_plural(notes, 'note')}."
    end = " Training would fail or go wrong." if errors else " Ready to train."
    console.print(Text(told + end, style=_STYLES["error"] if errors else "bold green"))


def _finding(finding: Finding) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=8)
    grid.add_column(overflow="fold")
    grid.add_row(Text(finding.level, style=_STYLES[finding.level]), Text(finding.where, style="bold"))
    for name in ("found", "expected", "fix"):
        if getattr(finding, name):
            grid.add_row(Text(name, style="dim"), Text(getattr(finding, name)))
    grid.add_row("", "")
    return grid


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        min_width=min(76, len(title)),
    )
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="left" if name == "with" else "right", overflow="fold")
    return table


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _memory(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"
