"""`lightning-distill report`: one page on a finished run, and what could be changed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lightning_distill.commands.opening import Finished, finished_run, packages, run_config, teacher_of
from lightning_distill.commands.pairs import finished_pairs
from lightning_distill.errors import ConfigError, DistillError, printable
from lightning_distill.quiet import silence_tips

if TYPE_CHECKING:
    from lightning_distill.explanation.opened_run import OpenedRun
    from lightning_distill.model import MultimodalModel
    from lightning_distill.teachers import Teacher

_CACHED: Final = "CachedTeacher"


def main(argv: Sequence[str]) -> int:
    """Write the page and the changes, and print the short of it.

    Args:
        argv: Words after `report`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    # `.` and `..` have no name, which reruns are named by.
    run: Path = options.run.resolve() if options.run.name in ("", "..") else options.run
    out: Path = options.out or run / "report.html"
    if out.is_dir():
        raise ConfigError(
            where="report --out", found=f"{out} is a folder", expected="a file", fix="name a file in it"
        )
    silence_tips()
    finished = finished_run(run)

    from rich.console import Console

    from lightning_distill.commands.changes import Changes
    from lightning_distill.explanation.findings import findings
    from lightning_distill.explanation.gathering import gather
    from lightning_distill.reporting.run_page import save_run_report
    from lightning_distill.reporting.run_summary import metrics_table, sentences

    facts = gather(_opened(run, finished), options.split)
    changes = Changes(run, options.split)
    found = [changes.placed(finding) for finding in findings(facts)]
    again = {finding.name: changes.command(finding) for finding in found if finding.change}
    save_run_report(facts, found, finished.data, out, again)
    changes.write(found)  # after the page, so that one that fails leaves nothing
    console = Console()
    console.print(metrics_table(facts))
    console.print()
    for line in sentences(facts, found, again):
        console.print(printable(line, 5000), highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nWrote {printable(out, 5000)}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill report",
        description="One HTML page on a finished run: what student and teacher agree on, classes, "
        "modalities, calibration, layers, whether the teacher was worth it, and config lines that change "
        "what stands out.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that `fit` has finished")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="default: test")
    parser.add_argument("--out", type=Path, help="HTML file to write; default: report.html in the run")
    return parser


def _opened(run: Path, finished: Finished) -> OpenedRun:
    """The run with its teacher and its baselines, as far as they can be opened."""
    from lightning_distill.explanation.opened_run import OpenedRun

    left_out: list[str] = []
    return OpenedRun(
        run=run,
        student=finished.student,
        teacher=_teacher(run, left_out),
        pairs=_pairs(run, finished.student, left_out),
        data=finished.data,
        task=finished.task,
        left_out=tuple(left_out),
    )


def _teacher(run: Path, left_out: list[str]) -> Teacher | None:
    """The one of the run's config; itself, where the run had it cached."""
    config = run_config(run)
    init_args = config["model"].get("init_args") or {}
    spec: Any = init_args.get("teacher")
    while isinstance(spec, dict) and str(spec.get("class_path")).rpartition(".")[2] == _CACHED:
        spec = (spec.get("init_args") or {}).get("teacher")
    if not spec:
        return None
    try:
        return teacher_of({"model": {"init_args": {"teacher": spec}}}, None, run / "config.yaml")
    except DistillError as error:
        left_out.append(f"No teacher: {error}")
        return None


def _pairs(
    run: Path, student: MultimodalModel, left_out: list[str]
) -> tuple[tuple[MultimodalModel, MultimodalModel], ...]:
    """Students and their matched baselines, the run's own first."""
    from lightning_distill.export import load_student

    trusted = sorted(packages(run_config(run)["model"]))
    found = []
    try:
        for number, pair in enumerate(finished_pairs(run)):
            own = load_student(pair.student / "student", packages=trusted) if number else student
            found.append((own, load_student(pair.baseline / "student", packages=trusted)))
    except DistillError as error:
        left_out.append(f"Not every baseline: {error}")
    return tuple(found)
