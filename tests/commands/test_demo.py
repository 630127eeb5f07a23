"""The demo, whole, with very short trainings: what it writes and prints, not how well it learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_distill.__main__ import main
from lightning_distill.commands.demo import jobs
from lightning_distill.commands.demo.constants import CLIP_GRID
from lightning_distill.commands.demo.records import Result
from lightning_distill.commands.demo.results import gap_closed, standard_error, story_rows
from tests.processes import context

KINDS = ("source-only", "scratch", "distilled", "distilled + clip", "ceiling")


@pytest.mark.slow
def test_demo_writes_all_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Workers that import everything anew cost more than all their trainings here.
    monkeypatch.setattr(jobs, "get_context", lambda method: context())
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--steps", "4", "--seeds", "0"]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "summary.json", "summary.png"]
    summary = json.loads((out / "summary.json").read_text())
    names = ["teacher", *(f"{student} {kind}" for student in ("image", "audio") for kind in KINDS)]
    assert [row["name"] for row in summary["rows"]] == names
    for row in summary["rows"]:
        assert 0 <= row["accuracy_mean"] <= 1
        assert row["params"] > 0
        assert row["ms_per_sample"] > 0
        assert row["accuracy_se"] is None  # one seed
    assert len(summary["clip"]["cells"]) == 2 * sum(len(faults) for _, _, faults in CLIP_GRID)
    assert summary["seconds"] > 0
    printed = capsys.readouterr().out
    assert "image distilled + clip" in printed
    assert "lightning-distill fit" in printed


def test_demo_refuses_a_file_as_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    assert main(["demo", "--out", str(taken)]) == 2
    assert "a file" in capsys.readouterr().err
    assert taken.read_text() == "mine"


def result(name: str, accuracy: float) -> Result:
    return Result(name, ("image",), 10, 0.1, accuracy, 0.5, 0.1)


def test_gap_closed_is_a_share_of_the_gap_from_the_better_baseline_seed_by_seed() -> None:
    first = [0.5, 0.7, 0.9, 0.9, 1.0]  # scratch is the better one: (0.9 - 0.7) / 0.3
    second = [0.8, 0.6, 0.9, 0.9, 1.0]  # source-only is: (0.9 - 0.8) / 0.2
    seeds = [
        [result(f"image {kind}", accuracy) for kind, accuracy in zip(KINDS, accuracies, strict=True)]
        for accuracies in (first, second)
    ]
    gap = gap_closed(story_rows(seeds), "image")
    assert gap["values"] == pytest.approx([2 / 3, 1 / 2])
    assert gap["mean"] == pytest.approx(7 / 12)


def test_standard_error_is_the_textbook_one() -> None:
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx((5 / 3) ** 0.5 / 2)
    assert standard_error([1.0]) is None
