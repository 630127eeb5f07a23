"""Two processes with half a batch each make the gradient of one with the whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_distill.losses import Overhaul
from tests.losses.two_ranks import gradients
from tests.shelves import concrete

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="starts its second process by fork")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.losses.two_ranks", str(folder)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in (0, 1)]


@pytest.mark.parametrize("cls", concrete("losses"))
def test_half_a_batch_each_is_a_whole_batch(cls: Any, ranks: list[Any]) -> None:
    if cls is Overhaul:
        pytest.skip("its margin is the mean of the negative responses of the process's own batch")
    expected = gradients(cls)
    assert max(map(abs, expected)) > 0
    for rank in ranks:
        assert rank[cls.__name__] == pytest.approx(expected, rel=1e-9, abs=1e-12)
