"""`lightning-distill demo`: a complete story on data that come with the package, in a few minutes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from lightning_distill.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Train, print both tables, write `summary.json`, `summary.png` and `report.html`.

    Args:
        argv: Words after `demo`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    out: Path = options.out
    if out.exists() and not out.is_dir():
        raise ConfigError(
            where="demo --out", found=f"{out} is a file", expected="a folder", fix="name another"
        )
    started = time.monotonic()

    from rich.console import Console

    from lightning_distill.commands.demo.jobs import run_all
    from lightning_distill.commands.demo.results import summarise
    from lightning_distill.reporting import clip_table, save_picture, save_report, save_summary, story_table

    console = Console()
    console.print(
        "Three modalities with labels in one domain; one modality and 50 labels in another.\n"
        "Training teachers and students on two cores, about three minutes.",
        highlight=False,
    )
    finished = run_all(options.seeds, options.steps, options.processes, console)
    summary = summarise(finished, options.seeds, options.steps, time.monotonic() - started)
    out.mkdir(parents=True, exist_ok=True)
    save_summary(summary, out / "summary.json")
    save_picture(summary, out / "summary.png")
    save_report(summary, out / "summary.png", out / "report.html")
    console.print(story_table(summary))
    console.print(clip_table(summary))
    for note in summary["notes"]:
        console.print(f"- {note}", highlight=False)
    console.print(f"\nWrote {out}/summary.json, summary.png and report.html", highlight=False)
    console.print(f"Next: {summary['next']}", highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    from lightning_distill.commands.demo.constants import SEEDS, STEPS

    parser = argparse.ArgumentParser(
        prog="lightning-distill demo",
        description="From three labelled modalities to one in a new domain, on data that come along.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="one story each")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps a training")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time")
    return parser
