"""Two processes on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts its second process by fork")
def test_two_ranks_share_the_work(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.module.two_ranks", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    assert first["steps"] == second["steps"] == 4  # 14 samples a rank, in batches of 8, twice
    for ours, theirs in zip(first["epochs"], second["epochs"], strict=True):
        assert sorted(ours + theirs) == list(range(5000, 5028))
    assert first["weights"] == second["weights"]
    assert first["metrics"] == second["metrics"]
    assert {"val/task", "val/kd", "val/accuracy", "val/agreement"} <= set(first["metrics"])
