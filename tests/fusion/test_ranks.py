"""A whole batch without a modality on one of two processes holds nobody up, whatever the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.fusion.two_ranks import gradients, main
from tests.processes import needs_fork, run_apart
from tests.shelves import concrete

pytestmark = needs_fork


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("ranks")
    run_apart(main, folder)
    return [torch.load(folder / f"rank{r}.pt") for r in (0, 1)]


@pytest.mark.parametrize("cls", concrete("fusion"))
def test_X3_two_processes_that_lack_different_modalities_make_the_gradient_of_one(
    cls: Any, ranks: list[Any]
) -> None:
    expected = gradients(cls)
    assert any(g is not None and g.any() for g in expected.values())
    for found in ranks:
        assert found[cls.__name__].keys() == expected.keys()
        for name, gradient in expected.items():
            assert gradient is not None, name
            torch.testing.assert_close(found[cls.__name__][name], gradient, rtol=1e-9, atol=1e-12)
