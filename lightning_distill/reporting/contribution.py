"""What each modality contributes: a table, a sentence, a JSON file and a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich import box
from rich.table import Table
from rich.text import Text

from lightning_distill.reporting.atomic import write_atomically, write_json
from lightning_distill.reporting.formatting import known

if TYPE_CHECKING:
    from lightning_distill.contribution import Contribution, Contributions

_UNITS: Final = {"accuracy": "points", "log_likelihood": "nats", "minus_squared_error": "squared units"}
"""What a difference of a score is in; other scores have no unit."""
_BAR: Final = 20
"""Cells of the widest bar, both sides of the axis together."""


def contribution_table(found: Contributions, title: str) -> Table:
    """Without looking, then what each modality adds, then everything; accuracy first, in percent.

    The bars show the first score: to the right what a modality adds, to the left of the axis what it takes.

    Args:
        found: As `contributions` returns it.
        title: What was measured on what.
    """
    table = Table(title=Text(f"{title}\n", style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    table.show_edge, table.pad_edge = False, False
    table.add_column("modality", overflow="fold")
    names = _by_interest(found)
    for name in names:
        table.add_column(Text(_heading(name)), justify="right")
    table.add_column(Text(f"gain in {names[0].replace('_', ' ')}"), no_wrap=True)
    scores = [(name, found.scores[name]) for name in names]
    table.add_row("without looking", *(_number(n, s.without_looking) for n, s in scores), end_section=True)
    bars = _bars(found.scores[names[0]].means)
    for m in found.modalities:
        table.add_row(Text(m), *(_change(n, s, m) for n, s in scores), bars[m])
    table.add_section()
    table.add_row("everything", *(_number(n, s.everything) for n, s in scores))
    return table


def contribution_sentence(found: Contributions) -> str:
    """What the numbers of the first score mean, modality by modality, largest first.

    Args:
        found: As `contributions` returns it.
    """
    name = _by_interest(found)[0]
    score, unit = found.scores[name], _UNITS.get(name, "")
    ranked = sorted(score.means, key=lambda m: score.means[m], reverse=True)
    told = "; ".join(_told(m, name, score, unit) for m in ranked)
    misled = " A modality that takes away misleads on average." if " takes away " in told else ""
    return (
        f"Mean over all orders in which modalities could arrive, and over {found.samples:,} samples: "
        f"{told}.{misled} "
        "All changes together are what everything gains over the best answer without looking. "
        "± is one standard error."
    )


def save_contributions(found: Contributions, split: str, path: Path | str) -> Path:
    """Write means and standard errors as JSON; NaN and infinity become null.

    Args:
        found: As `contributions` returns it.
        split: What it was measured on.
        path: The file; its folder is made where needed.

    Returns:
        The path.
    """
    scores = {
        name: {
            "without_looking": score.without_looking,
            "everything": score.everything,
            "modalities": {
                m: {"mean": score.means[m], "standard_error": score.errors[m]} for m in found.modalities
            },
        }
        for name, score in found.scores.items()
    }
    return write_json(path, {"split": split, "samples": found.samples, "scores": scores})


def save_sample_contributions(found: Contributions, path: Path | str) -> Path:
    """Write what each modality adds for each sample as Parquet, in one row a sample.

    Columns: `sample_id` int64, and for each score and modality `<score>_<modality>` float64.

    Args:
        found: As `contributions` returns it.
        path: The file; its folder is made where needed.

    Returns:
        The path.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"sample_id": found.sample_id.numpy()}
    for name, values in found.values.items():
        columns |= {f"{name}_{m}": values[m].numpy() for m in found.modalities}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return write_atomically(path, sink.getvalue().to_pybytes())


def _by_interest(found: Contributions) -> list[str]:
    return sorted(found.scores, key=lambda name: name != "accuracy")


def _heading(name: str) -> str:
    unit = _UNITS.get(name)
    return name.replace("_", " ") + (f",\n{unit}" if unit else "")


def _number(name: str, value: float) -> str:
    """A score or a difference: accuracy in percent, others as they are."""
    return f"{100 * value:.1f}" if name == "accuracy" else f"{value:.3f}"


def _change(name: str, score: Contribution, modality: str) -> str:
    value, error = score.means[modality], score.errors[modality]
    sign = "" if _number(name, value).startswith("-") else "+"
    return f"{sign}{_number(name, value)}" + (f" ± {_number(name, error)}" if known(error) else "")


def _told(modality: str, name: str, score: Contribution, unit: str) -> str:
    value, error = score.means[modality], score.errors[modality]
    amount = f"{_number(name, abs(value))} {unit}".rstrip()
    if value == 0:
        return f"{modality} adds nothing"
    if known(error) and abs(value) <= 2 * error:
        return f"{modality} can hardly be told from 0 ({_change(name, score, modality)})"
    return f"{modality} {'adds' if value > 0 else 'takes away'} {amount}"


def _bars(means: dict[str, float]) -> dict[str, str]:
    """A bar for each modality; a common axis shows where some bar reaches to the left of it."""
    left, right = max(0.0, -min(means.values())), max(0.0, *means.values())
    scale = _BAR / (left + right) if left + right else 0.0
    margin = round(left * scale)
    found = {}
    for m, value in means.items():
        cells = round(abs(value) * scale)
        below = "█" * cells if value < 0 else ""
        found[m] = f"{below:>{margin}}│" + ("█" * cells if value > 0 else "") if margin else "█" * cells
    return found
