"""`lightning-distill born-again`: a model is taught by itself as it was a round before."""

from __future__ import annotations

import argparse
import copy
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_distill.cli.one_of_several import train_unless_there
from lightning_distill.cli.run_folder import RunFolder
from lightning_distill.commands.opening import packages
from lightning_distill.errors import ConfigError, printable
from lightning_distill.explanation.without_teacher import without_other_views

_OURS = ("--run", "--resume", "--overwrite", "--ckpt_path")
"""Options of `fit` that the rounds decide themselves."""
_ANOTHER = "name another --out, or remove the folder and those of the rounds after it"


def main(argv: Sequence[str]) -> int:
    """Train round after round and print the best validation metric of each.

    Round 0 is the config without its teacher, terms and weights. In round k the student of round k - 1 is
    the teacher of a fresh one, through the config's terms, or through `LogitKD` where it has none. As in
    the paper each round starts from another seed: that of the config plus k. Each round is an ordinary run
    in OUT/roundK, and stays what it is: finished rounds are not trained again, an interrupted one goes on.

    Args:
        argv: Words after `born-again`.

    Returns:
        Exit code.

    Source: Furlanello et al., Born-Again Neural Networks (1805.04770), section 3. The paper's ensemble of
    all rounds is an `AveragedTeacher` over their student folders.
    """
    options, rest = _parser().parse_known_args(list(argv))
    _check(options, rest)

    from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]

    from lightning_distill.cli.parsing import parsed

    words = ["fit", *(word for file in options.config for word in ("--config", file)), *rest]
    config = parsed(words)
    folders = [RunFolder(options.out / f"round{number}") for number in range(options.rounds)]
    teacher: RunFolder | None = None
    for number, folder in enumerate(folders):
        own = round_config(config, number, None if teacher is None else f"{teacher}/student")
        train_unless_there(folder, own, "born-again --out", _ANOTHER)
        teacher = folder
    if not getattr(rank_zero_only, "rank", 0):
        _show(folders, config["checkpoint"])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill born-again",
        description="Train a model, then the same again with the one before as teacher, and so on. "
        "Settings can follow, as for fit.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-c", "--config", action="append", required=True, metavar="FILE", help="config of `fit`"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        metavar="N",
        help="trainings, the first without a teacher; default: 3",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs round0, round1, ...")
    return parser


def _check(options: argparse.Namespace, rest: Sequence[str]) -> None:
    if options.rounds < 2:
        raise ConfigError(
            where="born-again --rounds",
            found=options.rounds,
            expected="2 or more: one to make a teacher, one to be taught",
            fix="leave it out for 3",
        )
    given = [word for word in rest if word.partition("=")[0] in _OURS]
    if given:
        raise ConfigError(
            where="command line",
            found=given[0],
            expected="no folder but --out: the rounds lie in it, and go on where they stopped",
            fix="leave it out; for a new start name another --out",
        )
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(
            where="born-again --out",
            found=f"{options.out} is a file",
            expected="a folder",
            fix="name another",
        )


def round_config(config: dict[str, Any], number: int, teacher: str | None) -> dict[str, Any]:
    """The config of one round.

    Args:
        config: The full one that `fit` would use.
        number: Of the round, added to the seed.
        teacher: Student folder of the round before; None in round 0.

    Returns:
        Another full config. Its teacher sees what the student reads, in no way of its own. Round 0 has no
        balancer, with one term to balance.
    """
    made = copy.deepcopy(config)
    module = made["model"]["init_args"]
    seed = made.get("seed_everything")
    if isinstance(seed, int) and not isinstance(seed, bool):
        made["seed_everything"] = seed + number
    without_other_views(made)
    if teacher is None:
        module.update(dict.fromkeys(("teacher", "losses", "weights", "balancer")))
        return made
    trusted = sorted({*packages(module["student"])} - {"lightning_distill"})
    loaded = {"folder": teacher, **({"packages": trusted} if trusted else {})}
    model = {"class_path": "lightning_distill.export.load_student", "init_args": loaded}
    module["teacher"] = {
        "class_path": "lightning_distill.teachers.FrozenTeacher",
        "init_args": {"model": model},
    }
    if not module.get("losses"):
        module["losses"] = {"kd": {"class_path": "lightning_distill.losses.LogitKD"}}
        module["weights"] = module.get("weights") or {"task": 0.1, "kd": 0.9}
    return made


def _show(folders: Sequence[RunFolder], checkpoint: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # A round with a teacher adds terms to val/loss; the task's own loss is the same in all of them.
    monitor = "val/task" if checkpoint["monitor"] == "val/loss" else checkpoint["monitor"]
    table = Table(
        "round", "teacher", escape(printable(f"best {monitor}")), "against round 0", title_justify="left"
    )
    table.columns[2].justify = table.columns[3].justify = "right"
    values = [best_value(folder.path / "metrics.csv", monitor, checkpoint["mode"]) for folder in folders]
    for number, value in enumerate(values):
        gain = None if value is None or values[0] is None or not number else value - values[0]
        table.add_row(
            str(number),
            f"round {number - 1}" if number else "none",
            "-" if value is None else f"{value:.4f}",
            "" if gain is None else f"{gain:+.4f}",
        )
    Console().print(table)
    print(printable(f"students: {folders[0]}/student to {folders[-1]}/student", 9000))


def best_value(history: Path, monitor: str | None, mode: str) -> float | None:
    """The best value of a metric in a run's `metrics.csv`; None where it was never logged."""
    with history.open(encoding="utf-8", newline="") as lines:
        found = [float(row[monitor]) for row in csv.DictReader(lines) if monitor and row.get(monitor)]
    finite = [value for value in found if math.isfinite(value)]
    return (max if mode == "max" else min)(finite) if finite else None
