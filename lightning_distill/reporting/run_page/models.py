"""What a page says of models: their figures, what their modalities bring, how like their layers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from markupsafe import Markup

from lightning_distill.reporting.charts import Value, bar_chart, heat_map
from lightning_distill.reporting.formatting import is_share, metric_heading, metric_value

if TYPE_CHECKING:
    from lightning_distill.contribution import Contributions
    from lightning_distill.explanation.facts import RunFacts
    from lightning_distill.explanation.similarity import Similarity

COLOURS: Final = {"student": 0, "teacher": 1, "baseline": 2}
"""Number of each model's colour, the same in all charts."""
LAYERS: Final = 24
"""Of a model, on the map."""
METRICS: Final = 12
"""Columns of the table of models."""
TILES: Final = 4


class Model(NamedTuple):
    """A row of the table of models.

    Attributes:
        name: student, teacher or baseline.
        modalities: What it reads.
        parameters: How many; None where nobody knows.
        metrics: One a column, as text.
    """

    name: str
    modalities: tuple[str, ...]
    parameters: int | None
    metrics: tuple[str, ...]


class Tile(NamedTuple):
    """A figure at the top of the page.

    Attributes:
        name: Of the metric.
        value: Of the student.
        others: Of the other models, in words.
    """

    name: str
    value: str
    others: str


def metric_names(facts: RunFacts) -> list[str]:
    """Metrics that any model has, the student's first.

    Args:
        facts: Of a run.
    """
    return list(dict.fromkeys(name for own in facts.metrics.values() for name in own))[:METRICS]


def models(facts: RunFacts) -> list[Model]:
    """Rows of the table of models.

    Args:
        facts: Of a run.
    """
    names = list(dict.fromkeys([*facts.modalities, *facts.parameters, *facts.metrics]))
    columns = metric_names(facts)
    made = []
    for name in names:
        twin = "student" if name == "baseline" else name  # which it is, trained otherwise
        values = tuple(metric_value(m, facts.metrics.get(name, {}).get(m)) for m in columns)
        made.append(Model(name, facts.modalities.get(twin, ()), facts.parameters.get(twin), values))
    return made


def headings(facts: RunFacts) -> list[str]:
    """Of the columns of metrics.

    Args:
        facts: Of a run.
    """
    return [metric_heading(name) for name in metric_names(facts)]


def tiles(facts: RunFacts) -> list[Tile]:
    """The student's first metrics, beside the others'.

    Args:
        facts: Of a run.
    """
    made = []
    for name, value in list(facts.metrics.get("student", {}).items())[:TILES]:
        unit = " %" if is_share(name) else ""
        others = [
            f"{who} {metric_value(name, own[name])}{unit}"
            for who, own in facts.metrics.items()
            if who != "student" and name in own
        ]
        made.append(Tile(name.replace("_", " "), metric_value(name, value) + unit, ", ".join(others)))
    return made


def contribution_charts(found: Mapping[str, Contributions]) -> list[Markup]:
    """A chart a score: what each modality brings to every model.

    Args:
        found: student, teacher -> contributions.
    """
    scores = list(dict.fromkeys(name for own in found.values() for name in own.scores))
    modalities = list(dict.fromkeys(m for own in found.values() for m in own.modalities))
    series = {who: COLOURS.get(who, 3) for who in found}
    charts = []
    for score in sorted(scores, key=lambda name: name != "accuracy"):
        groups = {m: [_share(own, score, m) for own in found.values()] for m in modalities}
        charts.append(bar_chart(f"Gain in {score.replace('_', ' ')}", series, groups))
    return [chart for chart in charts if chart]


def _share(found: Contributions, score: str, modality: str) -> Value | None:
    own = found.scores.get(score)
    if own is None or modality not in own.means:
        return None
    return Value(own.means[modality], own.errors.get(modality))


class LayerMap(NamedTuple):
    """Similarity of layers, as a chart and as a table.

    Attributes:
        chart: The map.
        rows: The student's layers: number and name, then a text a column.
        columns: The teacher's layers: number and name.
        hidden: Layers that were left out, of both.
    """

    chart: Markup
    rows: list[tuple[str, list[str]]]
    columns: list[str]
    hidden: int


def layer_map(found: Similarity) -> LayerMap:
    """The map of a similarity; of deep models only some layers, evenly spread.

    Args:
        found: As `similarity` returns it.
    """
    rows, columns = _some(len(found.student)), _some(len(found.teacher))
    values = [[float(found.values[i, j]) for j in columns] for i in rows]
    chart = heat_map(
        "Student (down) and teacher (across)",
        [f"S{i + 1}" for i in rows],
        [f"T{j + 1}" for j in columns],
        values,
    )
    table = [
        (f"S{i + 1} {found.student[i]}", [f"{v:.2f}" for v in own])
        for i, own in zip(rows, values, strict=True)
    ]
    hidden = len(found.student) + len(found.teacher) - len(rows) - len(columns)
    return LayerMap(chart, table, [f"T{j + 1} {found.teacher[j]}" for j in columns], hidden)


def _some(count: int) -> Sequence[int]:
    """First, last, and evenly spread between.

    >>> _some(3), len(_some(100)), _some(100)[0], _some(100)[-1]
    (range(0, 3), 24, 0, 99)
    """
    return range(count) if count <= LAYERS else [round(i * (count - 1) / (LAYERS - 1)) for i in range(LAYERS)]
