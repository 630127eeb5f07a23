"""`lightning-distill contribution`: what each modality adds to a run's student."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_distill.commands.opening import finished_run
from lightning_distill.errors import ConfigError, printable
from lightning_distill.quiet import silence_tips


def main(argv: Sequence[str]) -> int:
    """Print the table and what it means, and write it as JSON and per sample as Parquet.

    Args:
        argv: Words after `contribution`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    run: Path = options.run
    out: Path = options.out or run / "contribution.json"
    samples: Path = options.samples or run / "contribution.parquet"
    _check(out, "--out", ".json")
    _check(samples, "--samples", ".parquet")
    silence_tips()
    opened = finished_run(run)

    from rich.console import Console

    from lightning_distill.contribution import contributions
    from lightning_distill.reporting import (
        contribution_sentence,
        contribution_table,
        save_contributions,
        save_sample_contributions,
    )

    found = contributions(opened.student, opened.data, opened.task, options.split)
    save_contributions(found, options.split, out)
    save_sample_contributions(found, samples)
    console = Console()
    console.print(
        contribution_table(found, printable(f"{run}, split {options.split}, {found.samples:,} samples"))
    )
    console.print(f"\n{contribution_sentence(found)}", highlight=False, markup=False)
    console.print(
        f"\nWrote {printable(out, 5000)} and {printable(samples, 5000)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill contribution",
        description="What each of the student's modalities adds to its scores: exact Shapley values, as a "
        "table, as JSON and for each sample as Parquet.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that `fit` has finished")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="default: test")
    parser.add_argument("--out", type=Path, help="JSON file to write; default: contribution.json in the run")
    parser.add_argument(
        "--samples", type=Path, help="Parquet file to write; default: contribution.parquet in the run"
    )
    return parser


def _check(path: Path, option: str, suffix: str) -> None:
    if path.is_dir() or path.suffix != suffix:
        raise ConfigError(
            where=f"contribution {option}",
            found=f"{path} is a folder" if path.is_dir() else path,
            expected=f"a file name that ends in {suffix}",
            fix=f"for example {option} contribution{suffix}",
        )
