"""The Optuna study of a search space, kept in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lightning_distill.commands.search.space import SearchSpace
from lightning_distill.commands.studies import queue_again
from lightning_distill.errors import ConfigError

if TYPE_CHECKING:
    import optuna

FOLDER: Final = "folder"
"""User attribute of a trial: name of its run's folder."""
VALUES: Final = "values"
"""User attribute of a trial: option -> value, as the run got it."""
STOPPED: Final = "stopped"
"""User attribute of a trial: why it ended early."""
_SPACE: Final = "space"


def open_study(space: SearchSpace, file: Path, seed: int) -> optuna.Study:
    """The study of a file, begun where there is none.

    Args:
        space: What is searched.
        file: SQLite.
        seed: Of its random choices.

    Raises:
        ConfigError: If the file holds a study of something else.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a warning, with its trace, is an interrupt
    file.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{file}",
        study_name="search",
        direction="maximize" if space.mode == "max" else "minimize",
        pruner=_pruner(space),
        load_if_exists=True,
    )
    study.sampler = _sampler(space, seed, len(study.trials))
    told = {"metric": space.metric, **{name: repr(values) for name, values in space.parameters.items()}}
    known = study.user_attrs.get(_SPACE)
    if known is None:
        study.set_user_attr(_SPACE, told)
    elif known != told:
        key = next(key for key in {**known, **told} if known.get(key) != told.get(key))
        raise ConfigError(
            where=f"search --out, {file}",
            found=f"a study of another space: {key} was {known.get(key)}, is {told.get(key)}",
            expected="the space that it was begun with",
            fix="name another --out, or take back the change",
        )
    queue_again(study, (FOLDER,))
    return study


def suggested(space: SearchSpace, trial: optuna.Trial) -> dict[str, Any]:
    """The values of a trial, constants among them.

    Args:
        space: Where they come from.
        trial: Of its study.
    """
    varied = space.varied()
    return {
        name: values.suggested(trial, name) if name in varied else values.ends()[0]
        for name, values in space.parameters.items()
    }


def _sampler(space: SearchSpace, seed: int, made: int) -> optuna.samplers.BaseSampler:
    """Bayes is TPE here: W&B's own is a Gaussian process."""
    import optuna

    if space.method == "grid":
        varied = space.varied()
        points = {name: values for name, values in space.grid.items() if name in varied}
        return optuna.samplers.GridSampler(points, seed=0)  # numbers points by it: it must stay the same
    seed += made  # else a study that is gone on with would draw once more what it has drawn
    return (
        optuna.samplers.RandomSampler(seed)
        if space.method == "random"
        else optuna.samplers.TPESampler(seed=seed)
    )


def _pruner(space: SearchSpace) -> optuna.pruners.BasePruner:
    """W&B's hyperband as Optuna's; the median of the trials before where the file says nothing."""
    import optuna

    stopping = space.stopping
    if stopping is None:
        return optuna.pruners.MedianPruner()
    last, brackets = stopping.last, stopping.brackets or 1
    first = stopping.first or max(1, (last or 1) // stopping.eta**brackets)
    return optuna.pruners.HyperbandPruner(first, last or "auto", stopping.eta)
