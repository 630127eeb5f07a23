"""Configs with short class names, in a process that has imported no other part of the library."""

from __future__ import annotations

from pathlib import Path

from tests.commands.opening_alone import open_config
from tests.processes import run_apart

CONFIG = Path(__file__).parents[2] / "configs" / "experiment" / "digits_distill_image.yaml"


def test_classes_may_be_named_without_their_path(tmp_path: Path) -> None:
    run_apart(open_config, CONFIG, tmp_path / "found")
    found = (tmp_path / "found").read_text().split()
    assert found == ["ImageTextAudioDataModule", "Digits", "Classification"]
