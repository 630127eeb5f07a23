"""The folder of a search: one process works in it, and the runs in it are those of its study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_distill.cli.run_lock import RunLock
from lightning_distill.commands.search.study import FOLDER
from lightning_distill.errors import ConfigError

if TYPE_CHECKING:
    import optuna


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Within it no other process works on the study: it would take our running trial for one cut off.

    Args:
        out: Made where it is missing.

    Raises:
        ConfigError: If another process is at work in it.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out)
    try:
        lock.take()
    except ConfigError as error:
        raise ConfigError(
            where=f"search --out, {out}",
            found=str(error.found).replace("a run", "a study", 1),
            expected="one process at a time",
            fix="wait for it, end it, or name another --out",
        ) from error
    try:
        yield
    finally:
        lock.release()


def check_runs(out: Path, file: Path, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
    """See that no runs of others lie where those of the study do: going on with one would make it ours.

    Args:
        out: Folder of the runs.
        file: Of the study.
        trials: All of the study.

    Raises:
        ConfigError: If there is one.
    """
    own = {trial.user_attrs.get(FOLDER) for trial in trials}
    for path in sorted(out.glob("trial-*")):
        number = path.name.removeprefix("trial-")
        if number.isdecimal() and path.name not in own and (path.is_file() or any(path.iterdir())):
            raise ConfigError(
                where=f"search --out, {out}",
                found=f"{path.name}, which {file} knows nothing of",
                expected="no runs but those of this study",
                fix="name another --out, or move that folder away",
            )
