from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from lightning_distill.reporting import Summary, save_picture
from lightning_distill.reporting.picture import draw_picture
from tests.reporting.example import example


def texts(figure: Figure) -> list[Text]:
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


def panel(figure: Figure, title: str) -> Axes:
    (found,) = [axes for axes in figure.findobj(Axes) if axes.get_title(loc="left") == title]
    return found


def everything_stopped() -> Summary:
    summary = example()
    for cell in summary["clip"]["cells"]:
        cell |= {"accuracy": 0.1, "stopped_at_step": 12345}
    return summary


def weak_teacher_and_one_seed() -> Summary:
    summary = example()
    for row in summary["rows"]:
        row |= {"accuracies": [row["accuracy_mean"]], "accuracy_se": None}
    summary["rows"][0]["accuracy_mean"] = 0.01
    summary["gap_closed"]["image"] = {"mean": float("nan"), "se": None, "values": []}
    del summary["gap_closed"]["audio"]
    summary["title"] = "A long title that says much about everything " * 4
    return summary


def test_the_file_is_a_png_of_the_expected_size(tmp_path: Path) -> None:
    path = save_picture(example(), tmp_path / "new" / "summary.png")
    image = cv2.imread(str(path))
    assert image is not None
    assert image.shape[1] == 1800
    assert 900 <= image.shape[0] <= 1600
    assert np.ptp(image) == 255
    assert (image[[0, -1]] == 255).all(), "nothing is cut off at the upper and lower edge"
    assert (image[:, [0, -1]] == 255).all(), "nor at the sides"


@pytest.mark.parametrize("make", [example, everything_stopped, weak_teacher_and_one_seed])
def test_no_text_lies_on_another_or_outside(make: Callable[[], Summary]) -> None:
    figure = draw_picture(make())
    figure.canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts(figure)]
    for (a, first), (b, second) in combinations(boxes, 2):
        shared = first.intersection(first, second)
        assert shared is None or min(shared.width, shared.height) < 1, (a, b)
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text
        assert box.y1 <= figure.bbox.y1, text


def test_bars_dots_and_the_teacher_stand_where_they_should() -> None:
    summary = example()
    axes = panel(draw_picture(summary), "image student")
    rows = [row for row in summary["rows"] if row["name"].startswith("image")]
    widths = [bar.get_width() for bar in axes.containers[0:9:2] for bar in bar]
    assert widths == pytest.approx([100 * row["accuracy_mean"] for row in rows])
    dots = [dots for dots in axes.collections if np.shape(dots.get_offsets()) == (3, 2)]
    for row, drawn in zip(rows, dots, strict=True):
        assert np.asarray(drawn.get_offsets())[:, 0] == pytest.approx([100 * a for a in row["accuracies"]])
    (dashed,) = [each for each in axes.lines if each.get_linestyle() == "--"]
    assert np.asarray(dashed.get_xdata()) == pytest.approx([100 * summary["rows"][0]["accuracy_mean"]] * 2)


def test_the_numbers_are_written_out() -> None:
    written = {t.get_text() for t in texts(draw_picture(example()))}
    assert {
        "gap closed: 88.1 % ± 3.0 of the shaded span",
        "gap closed: 72.4 % ± 1.9 of the shaded span",
    } <= written
    assert {"94.4 ± 0.4", "teacher 95.2 %", "9.8 → 96.2", "21.4 → 87.1", "stopped at step 43"} <= written


def test_importing_the_reports_loads_neither_matplotlib_nor_jinja() -> None:
    code = (
        "import sys, lightning_distill.reporting; print({'matplotlib', 'jinja2', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
