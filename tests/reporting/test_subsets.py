from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lightning_distill.evaluation import SubsetResult
from lightning_distill.reporting import save_subsets, subset_table
from tests.reporting.test_tables import lines

RESULTS = [
    SubsetResult(("image", "text"), 1234, {"accuracy": 0.9125, "macro_f1": 0.5, "calibration_error": 0.0312}),
    SubsetResult(("image",), 2000, {"accuracy": 1.0, "macro_f1": math.nan, "calibration_error": 0.1}),
    SubsetResult(("text",), 0, {}),
]


def test_ticks_counts_and_shares_in_percent() -> None:
    shown = [line.split() for line in lines(subset_table(RESULTS, "run a")) if line.strip()]
    assert shown[0] == ["run", "a"]
    heading = " ".join(word for line in shown[1:3] for word in line)
    assert all(word in heading for word in ("image", "text", "samples", "accuracy %", "macro f1 %"))
    assert shown[-3:] == [
        ["✓", "✓", "1,234", "91.2", "50.0", "0.031"],
        ["✓", "2,000", "100.0", "n/a", "0.100"],
        ["✓", "0", "n/a", "n/a", "n/a"],
    ]


def test_numbers_that_are_no_shares_stay_as_they_are() -> None:
    result = SubsetResult(("image",), 5, {"mae": 0.25, "rmse": 3.5, "r2": -0.5})
    assert lines(subset_table([result], "x"))[-1].split() == ["✓", "5", "0.250", "3.500", "-0.500"]


def test_names_are_not_read_as_markup() -> None:
    shown = lines(subset_table([SubsetResult(("[b]x",), 5, {"[red]accuracy": 0.5})], "[i]run"))
    text = "\n".join(shown)
    assert all(name in text for name in ("[b]x", "[red]accuracy", "[i]run"))


@pytest.mark.parametrize("count", [3, 4])
def test_four_modalities_fit_into_a_terminal(count: int) -> None:
    names = ("image", "text", "audio", "tabular")[:count]
    metrics = {"accuracy": 1.0, "macro_f1": 1.0, "calibration_error": 0.123}
    shown = lines(subset_table([SubsetResult(names, 1_000_000, metrics)], "x"))
    assert shown[-1].split() == ["✓"] * count + ["1,000,000", "100.0", "100.0", "0.123"]


def test_json(tmp_path: Path) -> None:
    path = save_subsets(RESULTS, "val", tmp_path / "deep" / "subsets.json")
    content = json.loads(path.read_text())
    assert content["split"] == "val"
    first, second, third = content["subsets"]
    assert first == {
        "modalities": ["image", "text"],
        "samples": 1234,
        "metrics": {"accuracy": 0.9125, "macro_f1": 0.5, "calibration_error": 0.0312},
    }
    assert second["metrics"]["macro_f1"] is None
    assert third == {"modalities": ["text"], "samples": 0, "metrics": {}}
