"""What searches with Optuna have in common: a study on disk, and trials that were cut off."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from lightning_distill.errors import ConfigError

if TYPE_CHECKING:
    import optuna

_QUEUED_AGAIN: Final = "queued again"
_OF_GRID: Final = ("grid_id", "search_space")
"""What Optuna's `GridSampler` writes down of a trial: which point of which grid it is."""


def require_optuna(where: str, instead: str) -> None:
    """See that Optuna is installed.

    Args:
        where: The command or option that needs it.
        instead: What can be done without it.

    Raises:
        ConfigError: If it is not.
    """
    if find_spec("optuna") is None:
        raise ConfigError(
            where=where,
            found="no package optuna",
            expected="Optuna, which is an extra of this package",
            fix=f"pip install 'lightning-distill[optuna]', or {instead}",
        )


def ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trainings that came to an end, a bad one too."""
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def queue_again(study: optuna.Study, kept: Collection[str]) -> None:
    """Trainings that were cut off, by an interrupt or with their process, are to be made once more.

    Args:
        study: Nobody else works on it.
        kept: Names of the user attributes that go along.
    """
    from optuna.trial import TrialState, create_trial

    known = set(study.user_attrs.get(_QUEUED_AGAIN, []))
    for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.FAIL)):
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        point = {name: value for name, value in trial.system_attrs.items() if name in _OF_GRID}
        if (trial.params or point) and trial.number not in known:
            told = {name: value for name, value in trial.user_attrs.items() if name in kept}
            # `enqueue_trial` would not keep the point, without which `GridSampler` fails.
            system = {"fixed_params": trial.params, **point}
            study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=told, system_attrs=system))
        known.add(trial.number)
    study.set_user_attr(_QUEUED_AGAIN, sorted(known))
