"""Configs with short class names, in a process that has imported nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

CODE = """
from pathlib import Path
from lightning_distill.commands.opening import data_and_task, distillation_config
path = Path("configs/experiment/digits_distill_image.yaml")
data, task = data_and_task(distillation_config(path), path)
print(type(data).__name__, type(data.source).__name__, type(task).__name__)
"""


def test_classes_may_be_named_without_their_path() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["ImageTextAudioDataModule", "Digits", "Classification"], done.stderr[
        -2000:
    ]
