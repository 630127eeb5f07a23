"""`lightning-distill init`: looks at a file or folder and writes a config that runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_distill.errors import ConfigError, nearest

if TYPE_CHECKING:
    from lightning_distill.commands.init.configs import Config
    from lightning_distill.commands.init.plan import Plan


def main(argv: Sequence[str]) -> int:
    """Look at the data, write one config or two, and say what was taken for what.

    Args:
        argv: Words after `init`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    out: Path = options.out
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            where="init --out",
            found=out,
            expected="a file that ends in .yaml",
            fix=f"try --out {out.stem}.yaml",
        )
    if not options.data.exists():
        raise _missing(options.data)

    from lightning_distill.commands.init.configs import pair, single
    from lightning_distill.commands.init.looking import look
    from lightning_distill.quiet import silence_tips
    from lightning_distill.reporting.atomic import write_atomically

    silence_tips()
    plan = look(options.data, options.label)
    student = None if options.student is None else options.student.split(",")
    if student is not None:
        _check_student(plan, student)
    configs = (single(plan, out),) if student is None else pair(plan, out, student)
    _check_free([config.path for config in configs], options.overwrite)
    for config in configs:
        write_atomically(config.path, config.text)
    _tell(plan, configs)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill init",
        description="Look at data and write a config that trains on them.",
        allow_abbrev=False,
    )
    parser.add_argument("data", type=Path, help="table, class folders, tar shards, or a save_to_disk folder")
    parser.add_argument("--out", type=Path, required=True, help="YAML file to write")
    parser.add_argument(
        "--student",
        metavar="MODALITIES",
        help="write a pair of configs, OUT_teacher and OUT_student: a teacher on all modalities, and a "
        "student that reads only these, for example image or image,text",
    )
    parser.add_argument("--label", metavar="COLUMN", help="column of the labels, where it cannot be guessed")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


def _missing(path: Path) -> ConfigError:
    there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return ConfigError(
        where="command line",
        found=f"{path}, which is not there{nearest(path.name, there)}",
        expected="a table or a folder",
        fix="check the path",
    )


def _check_student(plan: Plan, student: Sequence[str]) -> None:
    unknown = [m for m in student if m not in plan.parts]
    if unknown or len(set(student)) != len(student) or len(student) >= len(plan.parts):
        raise ConfigError(
            where="init --student",
            found=",".join(student) + (nearest(unknown[0], plan.parts) if unknown else ""),
            expected=f"some, not all, of the modalities of the data: {', '.join(plan.parts)}",
            fix="name what the student can see, for example --student "
            f"{next(iter(plan.parts))}, or leave --student out",
        )


def _check_free(paths: Sequence[Path], overwrite: bool) -> None:
    for path in paths:
        if path.is_dir() or (path.exists() and not overwrite):
            raise ConfigError(
                where="init --out",
                found=f"{path}, which is there",
                expected="a new file",
                fix="name another folder"
                if path.is_dir()
                else "replace it by --overwrite, or name another file",
            )


def _tell(plan: Plan, configs: Sequence[Config]) -> None:
    from rich.console import Console

    from lightning_distill.commands.init.specs import shown
    from lightning_distill.errors import printable

    console = Console(highlight=False, markup=False, soft_wrap=False)
    task = f"{plan.task.__name__} with {len(plan.names)} outputs"
    console.print(printable(f"{plan.data}: {plan.rows:,} samples, {task}. {plan.told} {plan.split}", 6000))
    for part in plan.parts.values():
        console.print(printable(f"  {part.why}"))
    console.print()
    for config in configs:
        console.print(f"Wrote {shown(config.path)}", soft_wrap=True)
    console.print("\nNext:")
    for config in configs:
        run = config.run.as_posix()
        for line in (
            f"doctor --config {shown(config.path)}",
            f"fit --config {shown(config.path)} --run {run}",
        ):
            # A student can be looked at only once its teacher is there.
            console.print(f"  lightning-distill {line}", soft_wrap=True)
    run = configs[-1].run.as_posix()
    for command in ("test", "predict"):
        console.print(f"  lightning-distill {command} --run {run}", soft_wrap=True)
