"""`lightning-distill compare`: runs side by side, and in what their configs differ."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lightning_distill.commands.opening import run_config
from lightning_distill.errors import ConfigError, printable

_SUFFIXES: Final = (".html", ".json")


def main(argv: Sequence[str]) -> int:
    """Print the tables, and write a page or JSON where asked to.

    Args:
        argv: Words after `compare`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    paths: list[Path] = options.run
    out: Path | None = options.out
    _check(paths, out)
    configs = [run_config(path) for path in paths]

    from rich.console import Console

    from lightning_distill.explanation.curves import read_curves
    from lightning_distill.reporting.comparison import compared_run, comparison_tables, save_comparison

    runs = [
        compared_run(path, config, read_curves(path / "metrics.csv"))
        for path, config in zip(paths, configs, strict=True)
    ]
    console = Console()
    for table in comparison_tables(runs):
        console.print(table)
        console.print()
    if out is not None:
        told = printable(f"Wrote {save_comparison(runs, out)}", 5000)
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    return 0


def _check(paths: list[Path], out: Path | None) -> None:
    twice = next((path for i, path in enumerate(paths) if path in paths[:i]), None)
    if twice is not None or len(paths) < 2:
        raise ConfigError(
            where="compare",
            found="one run" if twice is None else f"{twice} twice",
            expected="two different runs or more",
            fix="name each run once, for example lightning-distill compare runs/a runs/b",
        )
    if out is not None and (out.suffix not in _SUFFIXES or out.is_dir()):
        raise ConfigError(
            where="compare --out",
            found=f"{out} is a folder" if out.is_dir() else out,
            expected="a file name that ends in .html or .json",
            fix="name such a file, for example --out comparison.html",
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill compare",
        description="Metrics of runs side by side, and only those settings in which their configs differ.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "run", type=Path, nargs="+", metavar="RUN", help="folders of runs that `fit` has made, two or more"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="also write a page (.html) or all values (.json)"
    )
    return parser
