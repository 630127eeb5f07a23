from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from lightning_distill.reporting import robustness_table, save_robustness, save_robustness_picture
from lightning_distill.reporting.robustness_picture import draw_robustness
from lightning_distill.robustness import Curve
from tests.reporting.test_tables import lines

LEVELS = (0.0, 0.5, 1.0)
WAYS = ("noise", "absence", "contradiction")


def curves(height: float, modalities: tuple[str, ...] = ("image", "text")) -> list[Curve]:
    """Each falls by 0.1 times its number over the levels."""
    found = []
    for i, (way, modality) in enumerate((w, m) for w in WAYS for m in modalities):
        values = tuple(height - 0.1 * i * level for level in LEVELS)
        found.append(Curve(way, modality, LEVELS, {"accuracy": values, "mae": values}, 1200, i % 2))
    return found


ONE = {"runs/a": curves(0.9)}
TWO = {"runs/a": curves(0.9), "runs/b": curves(0.8)}


def rows(shown: list[str]) -> list[list[str]]:
    """The words of the lines between head and remarks."""
    head = next(i for i, line in enumerate(shown) if line.startswith("─"))
    end = next(i for i, line in enumerate(shown) if line.startswith("area:"))
    return [line.split() for line in shown[head + 1 : end] if line.strip()]


def test_one_run() -> None:
    shown = lines(robustness_table(ONE, "accuracy", "runs/a, split test"))
    assert shown[:2] == ["runs/a, split test", "accuracy % as one modality at a time gets worse"]
    assert rows(shown) == [
        ["noise", "image", "90.0", "90.0", "90.0", "90.0"],
        ["text", "90.0", "85.0", "80.0", "85.0"],
        ["absence", "image", "90.0", "80.0", "70.0", "80.0"],
        ["text", "90.0", "75.0", "60.0", "75.0"],
        ["contradiction", "image", "90.0", "70.0", "50.0", "70.0"],
        ["text", "90.0", "65.0", "40.0", "65.0"],
    ]
    text = "\n".join(shown)
    assert "samples: 1,200." in text
    assert (
        "no level changes, such as those that lack the modality: noise of text 1; absence of text 1"
        in " ".join(text.split())
    )
    assert "against" not in text


def test_runs_stand_below_each_other_and_are_compared_with_the_first() -> None:
    worse = [Curve(c.corruption, c.modality, c.levels, c.metrics, 1200, 0) for c in curves(0.8)]
    worse[0] = Curve("noise", "image", LEVELS, {"accuracy": (0.8, 0.7, 0.5)}, 1200, 0)
    shown = lines(robustness_table({"a": curves(0.9), "b": worse}, "accuracy", "x"), 100)
    assert rows(shown)[:3] == [
        ["noise", "image", "a", "90.0", "90.0", "90.0", "90.0"],
        ["image", "b", "80.0", "70.0", "50.0", "67.5", "-13.3"],
        ["text", "a", "90.0", "85.0", "80.0", "85.0"],
    ]
    assert rows(shown)[3][-1] == "+0.0"
    assert "samples: 1,200 in each run." in "\n".join(shown)


def test_numbers_that_are_no_shares_stay_as_they_are() -> None:
    shown = lines(robustness_table(TWO, "mae", "x"), 100)
    assert "mae as one modality at a time gets worse" in shown
    assert rows(shown)[2:4] == [
        ["text", "runs/a", "0.900", "0.850", "0.800", "0.850"],
        ["text", "runs/b", "0.800", "0.750", "0.700", "0.750", "+0.000"],
    ]


def test_what_is_not_there() -> None:
    """A modality the first run lacks, other numbers of samples, none at all, and a metric that is NaN."""
    empty = [Curve(c.corruption, c.modality, LEVELS, {}, 0, 0) for c in curves(0.5, ("audio",))]
    broken = [Curve("noise", "text", LEVELS, {"accuracy": (0.5, math.nan, 0.1)}, 7, 0)]
    runs = {"a": curves(0.9), "b": empty, "c": broken}
    shown = lines(robustness_table(runs, "accuracy", "x"), 100)
    assert ["audio", "b", *["n/a"] * 5] in rows(shown)
    assert ["text", "c", "50.0", "n/a", "10.0", "n/a", "n/a"] in rows(shown)
    assert "samples: a 1,200, b 0, c 7." in "\n".join(shown)


def test_three_modalities_two_runs_and_five_levels_fit_into_100_columns() -> None:
    levels = (0.0, 0.25, 0.5, 0.75, 1.0)
    every = [
        Curve(way, m, levels, {"accuracy": (1.0,) * 5}, 1_000_000, 12_345)
        for way in WAYS
        for m in ("image", "text", "tabular")
    ]
    shown = lines(robustness_table({"runs/teacher": every, "runs/student": every}, "accuracy", "x"), 100)
    assert len(rows(shown)) == 18
    assert rows(shown)[0] == ["noise", "image", "runs/teacher", *["100.0"] * 6]


def test_the_ways_to_get_worse_are_whole_words_in_80_columns() -> None:
    levels = (0.0, 0.25, 0.5, 0.75, 1.0)
    every = [Curve(way, m, levels, {"accuracy": (1.0,) * 5}, 9, 0) for way in WAYS for m in ("image", "text")]
    shown = lines(robustness_table({"runs/teacher": every, "runs/a_long_name": every}, "accuracy", "x"), 80)
    assert {line.partition(" ")[0] for line in shown} >= set(WAYS)


def test_names_are_not_read_as_markup() -> None:
    odd = [Curve("[b]way", "[i]m", LEVELS, {"[red]accuracy": (1.0,) * 3}, 5, 1)]
    text = "\n".join(lines(robustness_table({"[u]r": odd, "s": odd}, "[red]accuracy", "[s]t"), 100))
    assert all(name in text for name in ("[b]way", "[i]m", "[u]r", "[red]accuracy", "[s]t"))


def test_json(tmp_path: Path) -> None:
    runs = {
        "a": curves(0.9),
        "b": [Curve("noise", "image", LEVELS, {"accuracy": (0.5, math.nan, 0.1)}, 7, 2)],
    }
    path = save_robustness(runs, "accuracy", "val", 3, tmp_path / "deep" / "robustness.json")
    content = json.loads(path.read_text())
    assert (content["split"], content["seed"], content["metric"]) == ("val", 3, "accuracy")
    assert [run["run"] for run in content["runs"]] == ["a", "b"]
    last = content["runs"][0]["curves"][-1]
    assert (last["corruption"], last["modality"], last["levels"]) == ("contradiction", "text", [0, 0.5, 1])
    assert last["metrics"]["accuracy"] == pytest.approx([0.9, 0.65, 0.4])
    assert last["area"] == pytest.approx({"accuracy": 0.65, "mae": 0.65})
    assert last["against_first"] == {"accuracy": 0, "mae": 0}
    other = content["runs"][1]["curves"][0]
    assert other["metrics"]["accuracy"] == [0.5, None, 0.1]
    assert other["area"] == {"accuracy": None}
    assert (other["samples"], other["unchanged"]) == (7, 2)
    alone = json.loads(save_robustness(ONE, "accuracy", "val", 3, path).read_text())
    assert "against_first" not in alone["runs"][0]["curves"][0]


# -- picture ------------------------------------------------------------------------------------------

LONG = {f"runs/2026-11-28-a-very-long-name-of-a-run-number-{i}": curves(0.9 - 0.1 * i) for i in range(6)}
WIDE = {"a": curves(0.9, ("image", "text", "audio", "tabular"))}
NARROW = {"a/b": curves(0.9, ("image",)), "a/c": curves(0.7, ("image",))}


def panel(figure: Figure, title: str) -> Axes:
    (found,) = [axes for axes in figure.axes if axes.get_title(loc="left") == title]
    return found


def drawn(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> list[Text]:
    """Texts that get onto the page; ticks outside an axis's range exist too, and are not drawn."""
    found: list[Text] = []
    draw = Text.draw

    def noting(text: Text, renderer: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            found.append(text)
        draw(text, renderer)

    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", noting)
        figure.canvas.draw()
    return found


@pytest.mark.parametrize("runs", [ONE, TWO, LONG, WIDE, NARROW], ids=["one", "two", "long", "wide", "narrow"])
def test_no_text_lies_on_another_or_outside(
    runs: dict[str, list[Curve]], monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = draw_robustness(runs, "accuracy", "runs/2026-11-28-a-very-long-name-of-a-run, split test")
    boxes = [(t.get_text(), t.get_window_extent()) for t in drawn(figure, monkeypatch)]
    assert len(boxes) > 20
    for (a, first), (b, second) in combinations(boxes, 2):
        shared = first.intersection(first, second)
        assert shared is None or min(shared.width, shared.height) < 1, (a, b)
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text
        assert box.y1 <= figure.bbox.y1, text


def test_the_legend_covers_no_panel() -> None:
    figure = draw_robustness(LONG, "accuracy", "x")
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert all(box.y1 <= axes.get_tightbbox().y0 for axes in figure.axes)  # type: ignore[union-attr]
    assert [t.get_text() for t in legend.get_texts()] == list(LONG)


def test_a_row_a_corruption_a_column_a_modality_a_line_a_run() -> None:
    figure = draw_robustness(TWO, "accuracy", "x")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"{way}, {modality}" for way in WAYS for modality in ("image", "text")]
    axes = panel(figure, "absence, text")
    for line, height in zip(axes.lines, (90, 80), strict=True):
        assert np.asarray(line.get_xdata()) == pytest.approx(LEVELS)
        assert np.asarray(line.get_ydata()) == pytest.approx([height, height - 15, height - 30])
    assert (
        len({line.get_color() for line in axes.lines}) == len({line.get_marker() for line in axes.lines}) == 2
    )
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert figure.axes[0].get_ylabel() == "accuracy %"


def test_a_modality_that_one_run_lacks_has_the_other_runs_line() -> None:
    figure = draw_robustness({"a": curves(0.9), "b": curves(0.8, ("image",))}, "accuracy", "x")
    assert len(panel(figure, "noise, image").lines) == 2
    assert len(panel(figure, "noise, text").lines) == 1


def test_the_file_is_a_png(tmp_path: Path) -> None:
    path = save_robustness_picture(TWO, "accuracy", "x", tmp_path / "new" / "robustness.png")
    image = cv2.imread(str(path))
    assert image is not None
    assert np.ptp(image) == 255
    assert (image[[0, -1]] == 255).all(), "nothing is cut off at the upper and lower edge"
    assert (image[:, [0, -1]] == 255).all(), "nor at the sides"
