"""The benchmark over pairs of modality sets: a few steps on the real data, and going on after a cut."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.processes import context

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

OPTIONS = ("--seeds", "1", "--workers", "1", "--steps", "4", "--sets", "1")

pytestmark = pytest.mark.skipif(
    "LIGHTNING_DISTILL_DATA" not in os.environ, reason="LIGHTNING_DISTILL_DATA does not name the real data"
)


@pytest.mark.data
def test_rows_and_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import kept
    import pairs

    # A worker that imports everything anew costs more than all its trainings here.
    monkeypatch.setattr(kept, "get_context", lambda method: context())

    def run() -> str:
        assert pairs.main(["--out", str(tmp_path / "pairs.json"), *OPTIONS]) == 0
        return capsys.readouterr().out

    run()
    report = json.loads((tmp_path / "pairs.json").read_text())
    assert [(r["labels"], r["teacher"], r["student"]) for r in report["rows"]] == [
        (300, "image", "image"),
        (3000, "image", "image"),
    ]
    for row in report["rows"]:
        assert row["gain"]["mean"] == pytest.approx(row["distilled"]["mean"] - row["scratch"]["mean"])
        assert row["over_own_set"]["mean"] == 0
    cells = tmp_path / "pairs" / "4_steps" / "pairs.jsonl"
    lines = cells.read_text().splitlines()
    assert len(lines) == 6 * 3 + 2 + 2 + 2 + 2  # tuning, its teachers again, scratch, self, distilled
    cells.write_text("\n".join(lines[:-1]) + "\n")
    assert "distilled: 1 of 1" in run()
    assert json.loads((tmp_path / "pairs.json").read_text())["rows"] == report["rows"]
