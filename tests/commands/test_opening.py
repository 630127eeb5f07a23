"""Configs with short class names, in a process that has imported no other part of the library."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_distill.commands.opening import run_config
from lightning_distill.errors import CheckpointError
from tests.commands.opening_alone import open_config
from tests.processes import run_apart

CONFIG = Path(__file__).parents[2] / "configs" / "experiment" / "digits_distill_image.yaml"


def test_classes_may_be_named_without_their_path(tmp_path: Path) -> None:
    run_apart(open_config, CONFIG, tmp_path / "found")
    found = (tmp_path / "found").read_text().split()
    assert found == ["ImageTextAudioDataModule", "Digits", "Classification"]


def test_a_folder_that_is_no_run_is_named_with_the_nearest_that_is(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.yaml").touch()
    with pytest.raises(CheckpointError) as told:
        run_config(tmp_path / "techer")
    message = str(told.value)
    assert message.endswith("name the folder of a run that `fit` has finished; did you mean 'teacher'?")
    assert "evaluate" not in message.partition("To fix")[2]  # other commands read runs as well
