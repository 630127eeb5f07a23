"""Two processes with half a batch each make the gradient of one with the whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lightning_distill.losses import Overhaul
from tests.losses.two_ranks import gradients, main
from tests.processes import needs_fork, run_apart
from tests.shelves import concrete

pytestmark = needs_fork


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("ranks")
    run_apart(main, folder)
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in (0, 1)]


@pytest.mark.parametrize("cls", concrete("losses"))
def test_half_a_batch_each_is_a_whole_batch(cls: Any, ranks: list[Any]) -> None:
    if cls is Overhaul:
        pytest.skip("its margin is the mean of the negative responses of the process's own batch")
    expected = gradients(cls)
    assert max(map(abs, expected)) > 0
    for rank in ranks:
        assert rank[cls.__name__] == pytest.approx(expected, rel=1e-9, abs=1e-12)
