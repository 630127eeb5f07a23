"""`lightning-distill evaluate`: a run's student on every subset of its modalities."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_distill.commands.opening import finished_run
from lightning_distill.errors import ConfigError, printable
from lightning_distill.quiet import silence_tips


def main(argv: Sequence[str]) -> int:
    """Print the table and write it as JSON.

    Args:
        argv: Words after `evaluate`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    run: Path = options.run
    out: Path = options.out or run / "subsets.json"
    if out.is_dir():
        raise ConfigError(
            where="evaluate --out", found=f"{out} is a folder", expected="a file", fix="name a file in it"
        )
    silence_tips()
    opened = finished_run(run)

    from rich.console import Console

    from lightning_distill.evaluation import evaluate_subsets
    from lightning_distill.reporting import save_subsets, subset_table

    results = evaluate_subsets(opened.student, opened.data, opened.task, options.split)
    save_subsets(results, options.split, out)
    console = Console()
    console.print(subset_table(results, printable(f"{run}, split {options.split}")))
    console.print(f"\nWrote {printable(out, 5000)}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill evaluate",
        description="Metrics for every subset of the student's modalities, as a table and as JSON.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that `fit` has finished")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="default: test")
    parser.add_argument("--out", type=Path, help="JSON file to write; default: subsets.json in the run")
    return parser
