"""The benchmark over pairs of modality sets: a few steps on the real data, and going on after a cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    "LIGHTNING_DISTILL_DATA" not in os.environ, reason="LIGHTNING_DISTILL_DATA does not name the real data"
)


def run(folder: Path) -> str:
    options = ["--seeds", "1", "--workers", "1", "--steps", "4", "--sets", "1"]
    command = [sys.executable, "benchmarks/pairs.py", "--out", str(folder), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.data
def test_rows_and_going_on(tmp_path: Path) -> None:
    run(tmp_path)
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
    assert "distilled: 1 of 1" in run(tmp_path)
    assert json.loads((tmp_path / "pairs.json").read_text())["rows"] == report["rows"]
