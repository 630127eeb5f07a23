"""Two processes on the CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lightning_distill.clipping import ZClip
from tests.module.parts import make_module
from tests.module.two_ranks import main
from tests.processes import needs_fork, run_apart

pytestmark = needs_fork


def run(folder: Path, scenario: str) -> list[Any]:
    """What each rank reports."""
    run_apart(main, folder, scenario)
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in (0, 1)]


@pytest.mark.row("D4")
def test_two_ranks_share_the_work(tmp_path: Path) -> None:
    first, second = run(tmp_path, "labels")
    assert first["steps"] == second["steps"] == 4  # 14 samples a rank, in batches of 8, twice
    for ours, theirs in zip(first["epochs"], second["epochs"], strict=True):
        assert sorted(ours + theirs) == list(range(5000, 5028))
    assert first["weights"] == second["weights"]
    assert first["metrics"] == second["metrics"]
    assert {"val/task", "val/kd", "val/accuracy", "val/agreement"} <= set(first["metrics"])


@pytest.mark.row("D2")
@pytest.mark.parametrize("size", [2, 7])
def test_every_validation_sample_is_counted_once(tmp_path: Path, size: int) -> None:
    """With 7 samples in batches of two one rank has four samples, the other three."""
    first, second = run(tmp_path, f"uneven{size}")
    assert sorted(first["validated"] + second["validated"]) == sorted([*range(5028, 5028 + size)] * 2)
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["val/accuracy"] == pytest.approx(first["accuracy"], abs=1e-6)


@pytest.mark.row("D5")
def test_X3_a_batch_without_a_modality_on_one_rank_holds_nobody_up(tmp_path: Path) -> None:
    first, second = run(tmp_path, "modalities")
    assert first["steps"] == second["steps"] == 14
    assert first["without_b"] != second["without_b"]
    assert first["weights"] == second["weights"]
    assert all(math.isfinite(value) for value in (*first["weights"], *first["metrics"].values()))


@pytest.mark.row("D4")
def test_metrics_with_lists_on_a_rank_without_a_label(tmp_path: Path) -> None:
    first, second = run(tmp_path, "multilabel")
    assert first["metrics"] == second["metrics"]
    assert 0 < first["metrics"]["val/mean_average_precision"] <= 1


def test_what_a_rule_remembers_is_not_sent_every_step() -> None:
    """DDP asks the module for what it need not broadcast."""
    rule = ZClip()
    module = make_module(clip_rule=rule)
    ignored = set(module._ddp_params_and_buffers_to_ignore)
    assert ignored == {f"clip_rule.{name}" for name, _ in rule.named_buffers()} != set()
    assert ignored <= set(module.state_dict())
