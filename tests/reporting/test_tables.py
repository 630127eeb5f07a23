from __future__ import annotations

import io
import math

import pytest
from rich.console import Console, RenderableType

from lightning_distill.reporting import Summary, clip_table, story_table
from tests.reporting.example import example


def lines(renderable: RenderableType, width: int = 80) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(renderable)
    shown = file.getvalue().splitlines()
    assert max(map(len, shown)) <= width
    assert "…" not in "".join(shown)
    return [line.rstrip() for line in shown]


def line(shown: list[str], start: str) -> str:
    (found,) = [text for text in shown if text.startswith(start)]
    return " ".join(found.removeprefix(start).split())


def test_every_model_has_its_numbers_in_its_line() -> None:
    summary = example()
    shown = lines(story_table(summary))
    for row in summary["rows"]:
        accuracy = f"{100 * row['accuracy_mean']:.1f} ± {100 * (row['accuracy_se'] or 0):.1f}"
        first = row["modalities"][0] + ("," if len(row["modalities"]) > 1 else "")
        expected = f"{first} {row['params']:,} {row['ms_per_sample']:.3f} {accuracy}"
        expected += f" {100 * row['agreement']:.1f} {row['ece']:.3f}"
        assert line(shown, f"{row['name']}  ") == expected
    assert "3 seeds" in shown[1]


def test_a_section_a_student_ends_with_the_gap_closed() -> None:
    shown = lines(story_table(example()))
    at = {name: i for i, text in enumerate(shown) for name in ("image", "audio") if f"{name} gap" in text}
    assert line(shown, "image gap closed") == "88.1 ± 3.0"
    assert line(shown, "audio gap closed") == "72.4 ± 1.9"
    assert shown[at["image"] - 1].startswith("image ceiling")
    assert shown[at["image"] + 1] == ""
    assert shown[at["image"] + 2].startswith("audio source-only")


def test_large_models_keep_their_numbers() -> None:
    summary = example()
    for row in summary["rows"]:
        row |= {"params": 9_999_999, "accuracy_mean": 1.0, "accuracy_se": 0.1234}
    assert "9,999,999" in line(lines(story_table(summary)), "image distilled + clip ")
    assert "100.0 ± 12.3" in line(lines(story_table(summary)), "image distilled + clip ")


@pytest.mark.parametrize("error", [None, math.nan])
def test_one_seed_has_no_error(error: float | None) -> None:
    summary = example()
    summary["seeds"] = [7]
    summary["rows"][3]["accuracy_se"] = error
    summary["gap_closed"]["image"]["se"] = error
    shown = lines(story_table(summary))
    assert "one seed" in shown[1]
    assert line(shown, "image distilled  ") == "image 18,602 0.082 94.4 95.7 0.024"
    assert line(shown, "image gap closed") == "88.1"


def test_a_line_an_optimizer_and_learning_rate() -> None:
    shown = lines(clip_table(example()))
    assert line(shown, "AdamW") == "0.004 98.4 % 98.3 % 82.9 % 97.5 %"
    assert [" ".join(text.split()) for text in shown if text.startswith("SGD")] == [
        "SGD 0.1 97.1 % 96.6 % 10.2 % 95.8 %",
        "SGD 1 9.8 % 96.2 % 11.3 % 94.7 %",
    ]
    steps = [text.split() for text in shown if text.strip().startswith("step ")]
    assert steps == [["step", "117"], ["step", "43", "step", "8"]]


def test_a_stop_stands_under_its_accuracy() -> None:
    shown = lines(clip_table(example()))
    at = next(i for i, text in enumerate(shown) if text.startswith("SGD               1"))
    end = shown[at].index("11.3 %") + len("11.3 %")
    assert shown[at + 1][:end].endswith("stopped at")
    assert shown[at + 2][:end].endswith("step 8")


def test_the_feature_clip_lines() -> None:
    shown = lines(clip_table(example()))
    assert line(shown, "clean  ") == "98.2 % 97.9 %"
    assert line(shown, "5 % of audio features at ±1000") == "21.4 % 87.1 %"


def test_what_was_not_run_is_said() -> None:
    summary = example()
    del summary["clip"]["cells"][1]
    for cell in summary["clip"]["cells"]:
        cell.pop("stopped_at_step")
    shown = lines(clip_table(summary))
    assert line(shown, "AdamW") == "0.004 98.4 % n/a 82.9 % 97.5 %"
    assert "stopped" not in "".join(shown)


def _hostile() -> Summary:
    summary = example()
    summary["title"] = "[red]title[/red]"
    summary["rows"][1]["name"] = "[b]image[/b] x"
    summary["clip"]["cells"][0]["optimizer"] = "[link]Adam"
    return summary


def test_names_are_not_read_as_markup() -> None:
    assert "[red]title[/red]" in lines(story_table(_hostile()))[0]
    assert any(text.startswith("[b]image[/b] x") for text in lines(story_table(_hostile())))
    assert any(text.startswith("[link]Adam") for text in lines(clip_table(_hostile())))
