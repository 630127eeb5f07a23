"""Charts are read back as a browser reads them: coordinates against values, colours against the page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pytest

from lightning_distill.explanation.calibration import Bin, Calibration
from lightning_distill.reporting.charts import (
    Line,
    Value,
    bar_chart,
    heat_map,
    interval_chart,
    line_chart,
    reliability_chart,
    share_bar,
)
from lightning_distill.reporting.charts.drawing import COLOURS, dash, ticks
from lightning_distill.reporting.charts.lines import POINTS, thin


def elements(chart: str, tag: str, kind: str = "") -> list[ElementTree.Element]:
    """Those of the drawing itself, not of the legend."""
    svg = ElementTree.fromstring(chart).find("svg")
    assert svg is not None
    return [e for e in svg.iter(tag) if kind in e.get("class", "")]


def points(line: ElementTree.Element) -> np.ndarray:
    return np.array([[float(v) for v in pair.split(",")] for pair in line.get("points", "").split()])


def marks(chart: str) -> Iterator[tuple[float, float]]:
    """Value and height of each mark of the vertical axis."""
    for mark in elements(chart, "text"):
        if mark.get("text-anchor") == "end":
            yield float(mark.text or ""), float(mark.get("y", "")) - 4


def test_lines_stand_where_their_axis_says() -> None:
    y = [0.2, 0.9, 0.4, 0.6]
    chart = line_chart("Loss", [Line("a", [0, 10, 20, 30], y)])
    (line,) = elements(chart, "polyline")
    (v0, h0), *_, (v1, h1) = marks(chart)
    read = v0 + (points(line)[:, 1] - h0) * (v1 - v0) / (h1 - h0)
    np.testing.assert_allclose(read, y, atol=0.002)
    assert (np.diff(points(line)[:, 0]) > 0).all()


def test_over_powers_of_ten_the_axis_is_logarithmic() -> None:
    y = [1e-4, 1e-2, 1.0]
    chart = line_chart("Rate", [Line("a", [0, 1, 2], y)])
    heights = points(elements(chart, "polyline")[0])[:, 1]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert "logarithmic" in chart
    # From 0 on there is no such axis.
    assert "logarithmic" not in line_chart("Rate", [Line("a", [0, 1, 2], y)], low=0.0)
    assert "logarithmic" not in line_chart("Rate", [Line("a", [0, 1, 2], [0.0, *y[1:]])])


@pytest.mark.parametrize(("x", "y"), [([5], [0.0]), ([1, 2], [3.0, 3.0]), ([0, 0], [1e300, -1e300])])
def test_few_equal_or_huge_values(x: list[int], y: list[float]) -> None:
    chart = line_chart("One", [Line("a", x, y)])
    drawn = elements(chart, "polyline") + elements(chart, "circle")
    assert len(drawn) == 1
    assert "nan" not in chart
    assert "inf" not in chart


def test_nothing_to_draw() -> None:
    assert line_chart("None", [Line("a", [], [])]) == ""
    assert bar_chart("None", {"a": 0}, {"x": [None], "y": [Value(math.nan)]}) == ""
    assert share_bar("None", {"a": 0}) == heat_map("None", [], [], []) == ""


@pytest.mark.parametrize("length", [POINTS, POINTS + 1, 5000])
def test_long_lines_keep_their_extremes_and_their_ends(length: int) -> None:
    y = np.random.default_rng(length).standard_normal(length).tolist()
    kept = thin(range(length), y)
    assert len(kept) <= POINTS
    assert (kept[0], kept[-1]) == ((0, y[0]), (length - 1, y[-1]))
    assert {min(y), max(y)} <= {v for _, v in kept}
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})
    assert all(y[x] == v for x, v in kept)


@pytest.mark.parametrize("ends", [(0, 1), (-1e-9, 1e-9), (3, 97), (0.1, 0.100001), (-5e12, 1e13)])
def test_ticks_are_few_round_and_inside(ends: tuple[float, float]) -> None:
    found = ticks(*ends)
    assert 2 <= len(found) <= 7
    assert np.allclose(np.diff(found), found[1] - found[0])
    slack = 1e-6 * (ends[1] - ends[0])
    assert ends[0] - slack <= found[0] <= found[-1] <= ends[1] + slack
    step = found[1] - found[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-6)) in (1, 2, 5)


def test_bars_are_as_long_as_their_values() -> None:
    chart = bar_chart(
        "Gain",
        {"student": 0, "teacher": 1},
        {"image": [Value(0.4), Value(0.2, 0.1)], "audio": [None, Value(-0.1)]},
    )
    widths = [float(bar.get("width", "")) for bar in elements(chart, "rect", "area")]
    np.testing.assert_allclose(np.array(widths) / widths[0], [1, 0.5, 0.25], atol=0.003)
    colours = [bar.get("class") for bar in elements(chart, "rect", "area")]
    assert colours == ["area c0", "area c1", "area c1"]
    zero = {float(z.get("x1", "")) for z in elements(chart, "line", "zero")}
    begins = [float(bar.get("x", "")) for bar in elements(chart, "rect", "area")]
    assert begins[:2] == [*zero, *zero]
    assert begins[2] < begins[0]
    assert "image: student 0.4, teacher 0.2 ± 0.1; audio: teacher -0.1" in chart


def test_shares_fill_the_bar() -> None:
    chart = share_bar("All", {"a": 750, "b": 250})
    widths = [float(part.get("width", "")) + 1 for part in elements(chart, "rect", "area")]
    np.testing.assert_allclose(widths, [270, 90], atol=0.2)
    assert "a: 750 (75.0 %)" in chart


def test_a_map_says_its_numbers_while_there_is_room() -> None:
    chart = heat_map("CKA", ["S1", "S2"], ["T1", "T2"], [[1.0, 0.256], [0.0, math.nan]])
    cells = elements(chart, "rect", "cell")
    assert [cell.get("style") for cell in cells] == ["--v:1.00", "--v:0.26", "--v:0.00", "--v:0"]
    assert [t.text for t in elements(chart, "text")][2:] == ["S1", "1.00", ".26", "S2", ".00", "?"]
    assert "largest 1.00, at S1 and T1" in chart
    wide = heat_map("CKA", ["S1"], [f"T{i}" for i in range(24)], [[0.5] * 24])
    assert len(elements(wide, "rect", "cell")) == 24
    labels = [t.text for t in elements(wide, "text") if (t.text or "").startswith("T")]
    assert 6 <= len(labels) < 24


def test_reliability_stands_on_its_diagonal() -> None:
    honest = Calibration(0.0, (Bin(0.2, 0.4, 0.3, 0.3, 5), Bin(0.8, 1.0, 0.9, 0.9, 20)))
    chart = reliability_chart("student", honest)
    (diagonal,) = elements(chart, "line", "ideal")
    x0, y0, x1, y1 = (float(diagonal.get(k, "")) for k in ("x1", "y1", "x2", "y2"))
    for dot, share in zip(elements(chart, "circle"), (0.3, 0.9), strict=True):
        assert float(dot.get("cx", "")) == pytest.approx(x0 + share * (x1 - x0), abs=0.1)
        assert float(dot.get("cy", "")) == pytest.approx(y0 + share * (y1 - y0), abs=0.1)
    assert "at 0.30 accuracy 0.30 of 5 samples" in chart


@pytest.mark.parametrize("ends", [(0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1), (0.0, 0.0)])
def test_an_interval_and_zero(ends: tuple[float, float]) -> None:
    low, high = ends
    chart = interval_chart("Difference", (low + high) / 2, low, high)
    (zero,) = {float(z.get("x1", "")) for z in elements(chart, "line", "zero")}
    whisker = elements(chart, "line", "error")[0]
    begin, end = (float(whisker.get(k, "")) for k in ("x1", "x2"))
    assert (begin <= zero <= end) == (low <= 0 <= high)
    assert 0 < begin <= end < 360


def test_every_chart_has_a_name_and_words() -> None:
    for chart in (
        line_chart("T", [Line("<a>", [0, 1], [0, 1])]),
        share_bar("T", {"<a>": 1}),
        interval_chart("T", 0, -1, 1),
    ):
        svg = ElementTree.fromstring(chart).find("svg")
        assert svg is not None
        assert svg.get("role") == "img"
        assert svg.get("aria-label", "").startswith("T. ")
        assert (svg.findtext("title"), len(svg.findtext("desc") or "") > 5) == ("T", True)


def test_no_two_lines_look_alike() -> None:
    assert len({(i % COLOURS, dash(i)) for i in range(12)}) == 12


@pytest.mark.parametrize("mode", [0, 1])
def test_colours_stand_out_from_the_page(mode: int) -> None:
    """WCAG 2.2, 1.4.11: 3 : 1 for graphics."""
    style, charts = (
        files("lightning_distill.reporting").joinpath(name).read_text()
        for name in ("style.css", "charts/charts.css")
    )
    (paper,) = re.findall(r"--paper: (#\w+)", style.split("}")[mode])
    colours = re.findall(r"--c\d: (#\w+)", charts.split("}")[mode])
    assert len(set(colours)) == COLOURS
    for colour in colours:
        assert contrast(colour, paper) >= 3, colour


@pytest.mark.parametrize("mode", [0, 1])
def test_numbers_on_the_map_can_be_read(mode: int) -> None:
    """WCAG 2.2, 1.4.3: 4.5 : 1 for text, on the fullest cell."""
    style, charts = (
        files("lightning_distill.reporting").joinpath(name).read_text().split("}")[mode]
        for name in ("style.css", "charts/charts.css")
    )
    paper, ink, full = (
        re.findall(rf"--{name}: (#\w+)", text)[0]
        for name, text in (("paper", style), ("ink", style), ("c0", charts))
    )
    (heat,) = map(float, re.findall(r"--heat: ([\d.]+)", charts))
    cell = "#" + "".join(
        f"{round(heat * c + (1 - heat) * p):02x}"
        for c, p in zip(channels(full), channels(paper), strict=True)
    )
    assert contrast(cell, ink) >= 4.5


def channels(colour: str) -> list[int]:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    return [int(digits[i : i + 2], 16) for i in (0, 2, 4)]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: (L1 + 0.05) / (L2 + 0.05) of relative luminances."""

    def luminance(colour: str) -> float:
        linear = [
            s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4
            for s in (c / 255 for c in channels(colour))
        ]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
