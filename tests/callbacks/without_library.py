"""Opens a checkpoint where `lightning_distill` cannot be imported; run by `test_distill.py`."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from tests.callbacks.foreign import Plain


class Blocked(MetaPathFinder):
    """As if the library were not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "lightning_distill":
            raise ModuleNotFoundError(name)


def sum_of_the_head(checkpoint: Path, answer: Path) -> None:
    assert not any(name.split(".")[0] == "lightning_distill" for name in sys.modules)
    sys.meta_path.insert(0, Blocked())
    module = Plain.load_from_checkpoint(checkpoint, strict=True)
    answer.write_text(str(float(module.head.weight.detach().double().sum())))
