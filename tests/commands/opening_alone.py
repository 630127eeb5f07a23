"""Opens a config where nothing of the library is imported yet; run by `test_opening.py`."""

from __future__ import annotations

import sys
from pathlib import Path


def open_config(path: Path, answer: Path) -> None:
    assert not any(name.split(".")[0] == "lightning_distill" for name in sys.modules)
    from lightning_distill.commands.opening import data_and_task, distillation_config

    data, task = data_and_task(distillation_config(path), path)
    answer.write_text(f"{type(data).__name__} {type(data.source).__name__} {type(task).__name__}")
