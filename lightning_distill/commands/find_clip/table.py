"""What was found, on the console."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lightning_distill.range_finding.places import Place
from lightning_distill.range_finding.quantiles import LEVELS
from lightning_distill.range_finding.trials import Trial, width

if TYPE_CHECKING:
    from rich.console import Console

    from lightning_distill.range_finding.finder import ClipRangeResult

_SHOWN = (0.1, 0.5, 0.9, 0.99, 0.999, 1.0)


def trial_line(console: Console, trial: Trial, monitor: str) -> None:
    """One line for a training that is done.

    Args:
        console: Where to print.
        trial: The training.
        monitor: Name of the metric.
    """
    why = "" if trial.choice.epsilon is None else f" ({trial.choice.why})"
    text = (
        f"range {range_text(trial)}{why}, lr {trial.learning_rate:.3g}: {monitor} {value_text(trial)}, "
        f"{trial.seconds:.0f} s"
    )
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def show(console: Console, result: ClipRangeResult, place: Place) -> None:
    """Quantiles, trials, and what to know about them.

    Args:
        console: Where to print.
        result: What was found.
        place: Of the range.
    """
    from rich.table import Table

    table = Table("", title=f"Quantiles of {place.letter}, 0 left out", title_justify="left")
    for level in _SHOWN:
        table.add_column("largest" if level == 1 else f"{100 * level:.4g}%", justify="right")
    table.add_column("zeros", justify="right")
    for name, q in result.quantiles.items():
        values = (f"{q.values[LEVELS.index(level)]:.1e}" for level in _SHOWN)
        table.add_row(name, *values, f"{q.zero_share:.0%}")
    console.print(table)
    monitor = result.goal.monitor
    table = Table(
        "range", "from", "learning rate", monitor, "val/task", "", title="Trials", title_justify="left"
    )
    for trial in sorted(result.trials, key=lambda t: (t.learning_rate, width(t))):
        table.add_row(
            range_text(trial),
            "" if trial.choice.epsilon is None else trial.choice.why,
            f"{trial.learning_rate:.3g}",
            value_text(trial),
            "-" if trial.loss is None else _number(trial.loss),
            "chosen" if trial is result.chosen else "",
        )
    console.print(table)
    for line in remarks(result):
        console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)


def remarks(result: ClipRangeResult) -> Iterator[str]:
    """What to know about a result, a sentence each.

    Args:
        result: What was found.
    """
    yield from (str(plateau) for plateau in result.plateaus)
    chosen = result.chosen
    if chosen.value is None:
        yield "no training ended well; try again with a lower learning rate"
        return
    start = result.untrained
    if start is not None and not result.learnt:
        yield (
            f"no training got better than the untrained model, {result.goal.monitor} {_number(start)}: do "
            "not rely on this; try again with a lower learning rate or longer trainings"
        )
    if chosen.choice.epsilon is None:
        yield "no range did clearly better than no clip at all"
        free = [p for p in result.plateaus if p.high is None and p.learning_rate == chosen.learning_rate]
        yield from (f"a range of {p.low:.4g} costs nothing, and bounds what broken samples do" for p in free)
    rates = {t.learning_rate for t in result.trials if t.value is not None}
    if len(rates) > 1 and chosen.learning_rate in (min(rates), max(rates)):
        end = "lowest" if chosen.learning_rate == min(rates) else "highest"
        yield f"the chosen learning rate is the {end} that trained: look further in that direction"
    for trial in result.trials:
        if trial.stopped:
            yield f"{range_text(trial)} at a learning rate of {trial.learning_rate:.3g}: {trial.stopped}"


def range_text(trial: Trial) -> str:
    """The range of a trial."""
    return "off" if trial.choice.epsilon is None else f"{trial.choice.epsilon:.4g}"


def value_text(trial: Trial) -> str:
    """The value of a trial."""
    return "stopped" if trial.value is None else _number(trial.value)


def _number(value: float) -> str:
    """With four decimals, unless it is large.

    >>> _number(0.9), _number(13935875.0)
    ('0.9000', '1.394e+07')
    """
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3e}"
