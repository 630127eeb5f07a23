"""`lightning-distill baseline`: the student of a run without its teacher, all else the same."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lightning_distill.cli.one_of_several import train_unless_there
from lightning_distill.cli.run_folder import RunFolder
from lightning_distill.commands.opening import check_ended, data_and_task, run_config
from lightning_distill.commands.pairs import PairFolders, pair_of
from lightning_distill.errors import ConfigError, printable
from lightning_distill.explanation.without_teacher import without_teacher
from lightning_distill.security.secrets import masked_keys

if TYPE_CHECKING:
    from lightning_distill.explanation.curves import Curve

_ANOTHER: Final = "remove the folder; what is in it is no baseline of this run"


def main(argv: Sequence[str]) -> int:
    """Train the matched baseline of a run, and with --pairs more pairs of student and baseline.

    Args:
        argv: Words after `baseline`.

    Returns:
        Exit code.
    """
    options, rest = _parser().parse_known_args(list(argv))
    run: Path = options.run
    _check(run, options.pairs, rest)

    from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]

    from lightning_distill.cli.parsing import parsed

    config = parsed(["fit", "--config", str(run / "config.yaml"), *rest])
    config["cache"] = None  # the teacher of the config is a cached one where the run had --cache
    _check_config(config, run, options.pairs)
    pairs = [pair_of(run, number) for number in range(1, options.pairs + 1)]
    for number, pair in enumerate(pairs):
        again = seeded(config, number)
        if number:
            train_unless_there(RunFolder(pair.student), again, "baseline --pairs", _ANOTHER)
        train_unless_there(RunFolder(pair.baseline), baseline_config(again), "baseline", _ANOTHER)
    if not getattr(rank_zero_only, "rank", 0):
        _show(run, pairs, baseline_config(config)["checkpoint"])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill baseline",
        description="Trains the student of a run again, with the same data, steps and seed, but without its "
        "teacher, into RUN/baseline. `report RUN` then tells whether the teacher was worth it.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a distillation that has finished")
    parser.add_argument(
        "--pairs",
        type=int,
        default=1,
        metavar="N",
        help="pairs of student and baseline, each of another seed, into RUN/pairs; default: 1, the run's own",
    )
    return parser


def _check(run: Path, pairs: int, rest: Sequence[str]) -> None:
    secrets = tuple(masked_keys(run_config(run)))
    check_ended(run)
    if pairs < 1:
        raise ConfigError(
            where="baseline --pairs", found=pairs, expected="1 or more", fix="leave it out for 1"
        )
    for word in rest:
        if not any(word.startswith(f"--{key}=") for key in secrets):
            raise ConfigError(
                where="command line",
                found=word,
                expected="the settings of the run; only secrets, which a run does not write down, are given "
                "again" + (f", as --{secrets[0]}=..." if secrets else ", and it has none"),
                fix="leave it out; for other settings, train another run with `fit`",
            )


def _check_config(config: Mapping[str, Any], run: Path, pairs: int) -> None:
    """There is something to leave out, and something left to learn from."""
    module = config["model"].get("init_args") or {}
    if not module.get("teacher"):
        raise ConfigError(
            where=f"{run}, model.init_args.teacher",
            found="none",
            expected="a distillation: a run without a teacher is its own baseline",
            fix="name the folder of a run with a teacher",
        )
    seed = config.get("seed_everything")
    if pairs > 1 and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ConfigError(
            where=f"{run}, seed_everything",
            found=seed,
            expected="a number, to count on from for more pairs",
            fix="train the run with --seed_everything=0",
        )
    from lightning_distill.data import DataSource

    # A copy: what is made of a config leaves its parsed values in it.
    data, _ = data_and_task(copy.deepcopy(dict(config)), run / "config.yaml")
    if isinstance(data.source, DataSource) and not data.source.samples.labelled(data.rows("train")).any():
        raise ConfigError(
            where=f"{run}, training data",
            found="no sample with a label: there are no labels to learn from",
            expected="some, for a student that has no teacher",
            fix="label some samples, or compare with another teacher instead",
        )


def seeded(config: dict[str, Any], number: int) -> dict[str, Any]:
    """The config of another training of the same run.

    Args:
        config: The full one of the run.
        number: Added to the seed.

    Returns:
        Another full config, whose checkpoints lie in the folder of its own run.
    """
    made = copy.deepcopy(config)
    if number:
        made["seed_everything"] += number
    if made.get("checkpoint"):
        made["checkpoint"]["dirpath"] = None
    return made


def baseline_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a run without all that needs its teacher, see `without_teacher`.

    Args:
        config: The full one of the run.

    Returns:
        Another full config.
    """
    losses = config["model"]["init_args"].get("losses") or {}
    return without_teacher(config, {name for name, loss in losses.items() if _needs_teacher(loss)})


def _needs_teacher(loss: Mapping[str, Any]) -> bool:
    """Whether a term of a config compares with a teacher; one around another term does what that does."""
    from lightning_distill.cli.names import load

    inner = (loss.get("init_args") or {}).get("loss")
    if isinstance(inner, Mapping) and "class_path" in inner:
        return _needs_teacher(inner)
    return bool(getattr(load(loss["class_path"]), "needs_teacher", True))


def _show(run: Path, pairs: Sequence[PairFolders], checkpoint: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from lightning_distill.cli.born_again import best_value

    # A teacher adds terms to val/loss; the task's own loss is the same with and without one.
    monitor = "val/task" if checkpoint["monitor"] == "val/loss" else checkpoint["monitor"]
    table = Table(
        "pair", "with the teacher", "without", "difference", title_justify="left",
        title=escape(printable(f"best {monitor}")),
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for number, pair in enumerate(pairs, start=1):
        values = [best_value(folder / "metrics.csv", monitor, checkpoint["mode"]) for folder in pair]
        shown = ["-" if value is None else f"{value:.4f}" for value in values]
        gain = "" if None in values else f"{values[0] - values[1]:+.4f}"  # type: ignore[operator]
        table.add_row(str(number), *shown, gain)
    Console().print(table)
    for line in _unequal(pairs):
        print(printable(line, 5000))
    print(printable(f"next: lightning-distill report {run}", 5000))


def _unequal(pairs: Sequence[PairFolders]) -> Iterator[str]:
    """What early stopping has made of trainings that were to be equally long."""
    from lightning_distill.explanation.curves import read_curves

    for pair in pairs:
        steps = [_steps(read_curves(folder / "metrics.csv")) for folder in pair]
        if steps[0] != steps[1]:
            yield (
                f"not equally long: {pair.student} has {steps[0]:,} steps, {pair.baseline} {steps[1]:,}, "
                "since training stops early (early_stopping) once validation gets no better"
            )


def _steps(curves: Mapping[str, Curve]) -> int:
    """Optimizer steps of a training; the first is logged as 0."""
    return max((curve.steps[-1] + 1 for curve in curves.values() if curve.steps), default=0)
