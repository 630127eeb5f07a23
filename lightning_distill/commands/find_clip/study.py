"""The same search as an Optuna study, which can be stopped, gone on with, and looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_distill.commands.studies import ended, queue_again, require_optuna
from lightning_distill.errors import ConfigError
from lightning_distill.range_finding.finder import ClipRangeFinder, ClipRangeResult, recorded
from lightning_distill.range_finding.places import ALL
from lightning_distill.range_finding.quantiles import QuantileRecorder
from lightning_distill.range_finding.search import STEP, Ladder
from lightning_distill.range_finding.trials import Choice, Trial, plateaus

if TYPE_CHECKING:
    import optuna

_CLIP, _RANGE, _RATE = "clip", "epsilon", "rate"
_LEARNING_RATE, _LOSS, _STOPPED, _WHY = "learning_rate", "loss", "stopped", "why"


def run_study(
    finder: ClipRangeFinder, file: Path, report: Callable[[Trial], None] | None = None
) -> ClipRangeResult:
    """The user's own range and the ladder's first, then what Optuna's sampler thinks of.

    There are as many trials as the finder is to make.

    Trials that the file already has are not made again, but for those that were cut off. One process at a
    time may work on it.

    Args:
        finder: Trains.
        file: SQLite file of the study; made where it is not there.
        report: Told of each training when it is done.

    Raises:
        ConfigError: If Optuna is not installed.
    """
    require_optuna("find-clip --optuna", "leave --optuna out")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a warning, with its trace, is an interrupt
    recorder = QuantileRecorder()
    done = [finder.trial(Choice(), recorder)]
    if report is not None:
        report(done[0])
    quantiles = recorded(recorder, done[0])
    ladder, goal = finder.ladder(quantiles), finder.settled_goal()
    file.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{file}",
        study_name="find-clip",
        direction="maximize" if goal.mode == "max" else "minimize",
        sampler=optuna.samplers.TPESampler(seed=finder.seed),
        load_if_exists=True,
    )
    _begin(study, finder, ladder, file)
    bounds = _bounds(ladder, quantiles[ALL].at(1.0))

    objective = _objective(finder, bounds, report)
    study.optimize(objective, n_trials=max(0, finder.trials - len(ended(study))))
    done += [_trial(t, done[0].learning_rate) for t in ended(study)]
    found = tuple(plateaus(done, goal))
    return ClipRangeResult(quantiles, ladder, tuple(done), goal.chosen(done), goal, found, finder.untrained())


def _objective(
    finder: ClipRangeFinder, bounds: tuple[float, float], report: Callable[[Trial], None] | None
) -> Callable[[optuna.Trial], float]:
    """One training with what Optuna suggests; pruned where it stops."""
    import optuna

    def train(trial: optuna.Trial) -> float:
        made = finder.trial(_suggested(trial, bounds, finder.rates))
        for name in (_LEARNING_RATE, _LOSS, _STOPPED):
            trial.set_user_attr(name, getattr(made, name))
        if report is not None:
            report(made)
        if made.value is None:
            raise optuna.TrialPruned(made.stopped)
        return made.value

    return train


def _begin(study: optuna.Study, finder: ClipRangeFinder, ladder: Ladder, file: Path) -> None:
    """Queue the ladder in a new study; refuse one of another config."""
    ranges = [c.epsilon for c in ladder.choices if c.epsilon is not None]
    what = [finder.place.letter, finder.settled_goal().monitor, finder.rates]
    known = study.user_attrs
    if not known:
        study.set_user_attr("ranges", ranges)
        study.set_user_attr("what", what)
        own = [] if ladder.own is None else [ladder.own]
        first = ladder.rungs[min(ladder.first, len(ladder.rungs) - 1)]
        for choice in dict.fromkeys([*own, first, *ladder.choices]):
            told = {_CLIP: True, _RANGE: choice.epsilon, **({_RATE: 1.0} if finder.rates else {})}
            study.enqueue_trial(told, user_attrs={_WHY: choice.why})
        return
    # A GPU does not add up in the same order twice.
    alike = len(known["ranges"]) == len(ranges) and all(
        math.isclose(a, b, rel_tol=0.1) for a, b in zip(known["ranges"], ranges, strict=True)
    )
    if not alike or known["what"] != what:
        raise ConfigError(
            where=f"find-clip --optuna {file}",
            found=f"a study of {known['what']} with ranges {known['ranges']}",
            expected=f"one of {what} with ranges {ranges}, as this config gives",
            fix="name another file, or go on with the config and the options it was begun with",
        )
    queue_again(study, (_WHY,))


def _bounds(ladder: Ladder, largest: float) -> tuple[float, float]:
    """From the lowest range to the largest entry, or the user's own range where that is wider."""
    epsilons = [c.epsilon for c in ladder.choices if c.epsilon is not None]
    return min(epsilons), max(*epsilons, largest)


def _suggested(trial: optuna.Trial, bounds: tuple[float, float], rates: bool) -> Choice:
    rate = trial.suggest_float(_RATE, STEP**-3, STEP**3, log=True) if rates else 1.0
    if not trial.suggest_categorical(_CLIP, [True, False]):
        return Choice(None, rate)
    return Choice(trial.suggest_float(_RANGE, *bounds, log=True), rate, trial.user_attrs.get(_WHY, "Optuna"))


def _trial(kept: optuna.trial.FrozenTrial, base: float) -> Trial:
    told: dict[str, Any] = kept.params
    choice = Choice(None, told.get(_RATE, 1.0))
    if told.get(_CLIP):
        choice = Choice(told[_RANGE], choice.rate, kept.user_attrs.get(_WHY, "Optuna"))
    value = kept.value if kept.value is not None and math.isfinite(kept.value) else None
    attrs, seconds = kept.user_attrs, kept.duration.total_seconds() if kept.duration else 0.0
    return Trial(
        choice,
        attrs.get(_LEARNING_RATE, base * choice.rate),
        value,
        attrs.get(_LOSS),
        attrs.get(_STOPPED, ""),
        seconds,
    )
