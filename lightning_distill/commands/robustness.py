"""`lightning-distill robustness`: runs' students as one modality at a time gets worse."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_distill.commands.opening import Finished, finished_run
from lightning_distill.errors import ConfigError, printable
from lightning_distill.quiet import silence_tips


def main(argv: Sequence[str]) -> int:
    """Print the table, and write curves and picture.

    Args:
        argv: Words after `robustness`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    paths: list[Path] = options.run
    out: Path = options.out or paths[0]
    _check(paths, out)
    silence_tips()

    from rich.console import Console

    from lightning_distill.reporting import robustness_table, save_robustness, save_robustness_picture
    from lightning_distill.robustness import robustness_curves
    from lightning_distill.robustness.settings import check_levels

    check_levels(options.levels, "command line, --levels")
    opened = [finished_run(path) for path in paths]
    _comparable(opened)
    split, seed, metric = options.split, options.seed, opened[0].task.monitor[0]
    runs = {
        run.name: robustness_curves(run.student, run.data, run.task, split, levels=options.levels, seed=seed)
        for run in opened
    }
    what = printable(paths[0]) if len(paths) == 1 else f"{len(paths)} runs"
    title = f"{what}, split {split}"
    written = [
        save_robustness(runs, metric, split, seed, out / "robustness.json"),
        save_robustness_picture(runs, metric, title, out / "robustness.png"),
    ]
    console = Console()
    console.print(robustness_table(runs, metric, title))
    told = printable(f"Wrote {written[0]} and {written[1]}", 9000)
    console.print(f"\n{told}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _check(paths: list[Path], out: Path) -> None:
    twice = next((path for i, path in enumerate(paths) if path in paths[:i]), None)
    if twice is not None:
        raise ConfigError(
            where="robustness", found=f"{twice} twice", expected="different runs", fix="name it once"
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(
            where="robustness --out", found=f"{out} is a file", expected="a folder", fix="name a folder"
        )


def _comparable(opened: Sequence[Finished]) -> None:
    """One table needs one metric of the same classes."""
    first = opened[0]
    for other in opened[1:]:
        if tuple(other.data.classes) != tuple(first.data.classes) or type(other.task) is not type(first.task):
            raise ConfigError(
                where=f"robustness, {other.name}",
                found=_classes(other),
                expected=f"{_classes(first)}, as in {first.name}",
                fix="compare runs of the same task and classes, and call this command for each of the others",
            )


def _classes(run: Finished) -> str:
    names = run.data.classes
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{type(run.task).__name__} of {', '.join(names[:20])}{more}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill robustness",
        description="Metrics as one modality at a time gets noisy, absent or contradictory: a table, "
        "robustness.json and robustness.png.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "run",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of a run that `fit` has finished; others are compared with the first",
    )
    parser.add_argument("--split", choices=("val", "test"), default="test", help="default: test")
    parser.add_argument(
        "--levels",
        type=float,
        nargs="+",
        default=[0.0, 0.25, 0.5, 0.75, 1.0],
        help="how much worse, rising from 0 to at most 1; default: 0 0.25 0.5 0.75 1",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws; default: 0")
    parser.add_argument("--out", type=Path, help="folder to write to; default: that of the first run")
    return parser
