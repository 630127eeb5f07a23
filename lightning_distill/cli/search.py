"""`lightning-distill search`: the best settings of a space, one ordinary run a trial."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml  # type: ignore[import-untyped]

from lightning_distill.errors import ConfigError, NonFiniteError, nearest, printable

if TYPE_CHECKING:
    import optuna

    from lightning_distill.commands.search.space import SearchSpace

_OURS: Final = ("--run", "--resume", "--overwrite", "--ckpt_path")
"""Options of `fit` that a trial decides itself."""
_TRIALS: Final = 20


def main(argv: Sequence[str]) -> int:
    """Train trial after trial, with settings that an Optuna study chooses, and say which are best.

    Each trial is an ordinary run in OUT/trial-N. The study is OUT/study.db: the same line goes on with it,
    and with a training that was cut off.

    Args:
        argv: Words after `search`.

    Returns:
        Exit code: 0, or 5 where no training came to its end.
    """
    options, rest = _parser().parse_known_args(list(argv))
    from lightning_distill.commands.search.space import read_space

    space = read_space(options.space)
    _check(options, rest)
    from lightning_distill.cli.search_folder import alone_in
    from lightning_distill.commands.studies import require_optuna

    require_optuna("search", "run the space as a W&B sweep")
    given = [word for file in options.config for word in ("--config", file)] or list(space.words)
    search = _Search(space, options.out, [*given, *rest])
    try:
        with alone_in(options.out):
            return search.run(options.trials)
    except (KeyboardInterrupt, SystemExit):
        print(printable(f"{search.file} keeps what is done; the same line goes on", 5000))
        raise


class _Search:
    """A study and its folder.

    Args:
        space: What is searched.
        out: Folder of the study and of its runs.
        words: Of `fit`, which all trials share.
    """

    def __init__(self, space: SearchSpace, out: Path, words: list[str]) -> None:
        self.space, self.out, self.words = space, out, words
        self.file = out / "study.db"
        self.config = self._checked_config()
        if self.config["trainer"].get("devices") == "auto":
            self.words = [*words, "--trainer.devices=1"]

    def run(self, trials: int | None) -> int:
        """Make the trials that are still to be made.

        Args:
            trials: How many there are to be in the end; None is what the space says.
        """
        from lightning_distill.cli.search_folder import check_runs
        from lightning_distill.commands.search.study import open_study
        from lightning_distill.commands.studies import ended

        if not self.file.is_file():
            check_runs(self.out, self.file, [])
        self._keep_config()
        seed = self.config.get("seed_everything")
        study = open_study(self.space, self.file, seed if type(seed) is int else 0)
        check_runs(self.out, self.file, study.trials)
        every = math.prod(map(len, self.space.grid.values())) if self.space.method == "grid" else _TRIALS
        count = trials or self.space.trials or every
        count = min(count, every) if self.space.method == "grid" else count
        missing = count - len(ended(study))
        if missing > 0:
            study.optimize(self._trial, n_trials=missing)
        return self._tell(study)

    def _checked_config(self) -> dict[str, Any]:
        """The config as the first values make it; the last ones must be accepted too."""
        from lightning_distill.cli.parsing import parsed
        from lightning_distill.commands.search.table import as_words
        from lightning_distill.commands.search.trainer import check_trainer

        ends = [values.ends() for values in self.space.parameters.values()]
        most = max(map(len, ends))
        config: dict[str, Any] = {}
        for at in reversed(range(most)):
            values = {n: e[min(at, len(e) - 1)] for n, e in zip(self.space.parameters, ends, strict=True)}
            config = parsed(["fit", *self.words, *as_words(values)])
            check_trainer(config["trainer"])
        return config

    def _keep_config(self) -> None:
        """Refuse to go on with a study of another config."""
        from lightning_distill.cli.config_changes import differences
        from lightning_distill.reporting.atomic import write_atomically
        from lightning_distill.security.secrets import redacted_values

        file = self.out / "search.yaml"
        text = yaml.safe_dump(redacted_values(self.config), sort_keys=False, allow_unicode=True)
        changed = differences(file, text) if file.is_file() and self.file.is_file() else []
        if changed:
            raise ConfigError(
                where=f"search --out, {self.out}",
                found=f"a study of another config: {changed[0]}",
                expected="the config it was begun with",
                fix="name another --out, or take back the change",
            )
        write_atomically(file, text)

    def _trial(self, trial: optuna.Trial) -> float:
        """The best value of one run."""
        import optuna

        from lightning_distill.callbacks import WandbArtifacts
        from lightning_distill.cli import run
        from lightning_distill.cli.born_again import best_value
        from lightning_distill.commands.search.study import FOLDER, STOPPED, VALUES, suggested
        from lightning_distill.commands.search.table import as_words
        from lightning_distill.commands.search.trial_watch import TrialWatch
        from lightning_distill.guards.memory import MemoryShortError

        values = suggested(self.space, trial)
        cut_off = trial.user_attrs.get(FOLDER)
        folder = self.out / (cut_off or f"trial-{trial.number}")
        trial.set_user_attr(FOLDER, folder.name)
        trial.set_user_attr(VALUES, values)
        watch = TrialWatch(trial, self.space.metric)
        print(printable(f"{folder.name}: {' '.join(as_words(values))}", 5000), flush=True)
        words = ["fit", *self.words, *as_words(values), "--run", str(folder)]
        # From its newest checkpoint; without one it is begun again.
        words += ["--resume", "auto"] if cut_off and folder.is_dir() else []
        try:
            run("fit", words, [watch, WandbArtifacts(student=False)])  # weights of bad settings: not sent
        except (NonFiniteError, MemoryShortError) as error:
            trial.set_user_attr(STOPPED, error.found)
            raise optuna.TrialPruned(error.found) from error
        if watch.pruned:
            trial.set_user_attr(STOPPED, "pruned")
            raise optuna.TrialPruned
        value = best_value(folder / "metrics.csv", self.space.metric, self.space.mode)
        if value is None:
            raise _no_metric(self.space, folder)
        return value

    def _tell(self, study: optuna.Study) -> int:
        from rich.console import Console

        from lightning_distill.commands.search.study import FOLDER, VALUES
        from lightning_distill.commands.search.table import as_words, summary_of, trials_table
        from lightning_distill.commands.studies import ended
        from lightning_distill.reporting.atomic import write_atomically, write_json
        from lightning_distill.security.secrets import redacted_values

        trials = ended(study)
        write_json(self.out / "trials.json", redacted_values(summary_of(self.space, trials)))
        Console().print(trials_table(self.space, trials))
        if not any(trial.state.name == "COMPLETE" for trial in trials):
            print("no training came to its end; look for smaller learning rates or ranges")
            return 5
        best = study.best_trial
        run = self.out / best.user_attrs[FOLDER]
        write_atomically(self.out / "best.yaml", (run / "config.yaml").read_text(encoding="utf-8"))
        words = ["lightning-distill", "fit", *self.words, *as_words(best.user_attrs[VALUES])]
        print(printable(f"best: {run}, {self.space.metric} {best.value:.4f}", 5000))
        print(printable(f"its config: {self.out / 'best.yaml'}", 5000))
        print(printable(f"next: {shlex.join(redacted_values(words))}", 9000))
        return 0


def _no_metric(space: SearchSpace, folder: Path) -> ConfigError:
    with (folder / "metrics.csv").open(encoding="utf-8") as lines:
        logged = sorted(name for name in lines.readline().strip().split(",") if name.startswith("val/"))
    return ConfigError(
        where=f"{space.file}, metric.name",
        found=f"{space.metric}, which {folder} has no finite value of",
        expected=f"one of {', '.join(logged)}",
        fix=f"name one of them{nearest(space.metric, logged)}",
    )


def _check(options: argparse.Namespace, rest: Sequence[str]) -> None:
    given = [word for word in rest if word.partition("=")[0] in _OURS]
    if given:
        raise ConfigError(
            where="command line",
            found=given[0],
            expected="no folder but --out: the trials lie in it, and go on where they stopped",
            fix="leave it out; for a new start name another --out",
        )
    if options.trials is not None and options.trials < 1:
        raise ConfigError(
            where="search --trials", found=options.trials, expected="1 or more", fix="leave it out"
        )
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(
            where="search --out", found=f"{options.out} is a file", expected="a folder", fix="name another"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill search",
        description="Choose settings with Optuna, from the file that describes a W&B sweep: one run a trial, "
        "bad ones stopped early. Settings can follow, as for fit.",
        allow_abbrev=False,
    )
    about = "config of `fit`; default: what the command of --space names"
    parser.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help=about)
    parser.add_argument("--space", type=Path, required=True, metavar="FILE", help="W&B sweep file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study and of its runs")
    about = f"runs in all; default: run_cap of --space, its whole grid, or {_TRIALS}"
    parser.add_argument("--trials", type=int, metavar="N", help=about)
    return parser
