"""Rules on gradients of which each process has a part, beside the same rules on whole ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_distill.clipping import AdaptiveClip, NormClip, TargetFractionClip
from tests.clipping.split_ranks import clipped, main, trained
from tests.processes import needs_fork, run_apart
from tests.shelves import concrete

LAYOUTS = ("trained", "rows", "columns", "hybrid", "strided", "mixed", "flat")
SAMPLED = (TargetFractionClip,)
"""Each process looks at a sample of its own part."""

pytestmark = needs_fork


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("split")
    run_apart(main, folder)
    return [torch.load(folder / f"rank{r}.pt") for r in (0, 1)]


def alone(layout: str, cls: Any) -> Any:
    return trained(cls) if layout == "trained" else clipped(cls)


CASES = [(layout, cls) for layout in LAYOUTS for cls in concrete("clipping")]
EXACT = [(x, cls) for x, cls in CASES if cls not in SAMPLED and (x, cls) != ("flat", AdaptiveClip)]


def named(cases: list[tuple[str, Any]]) -> Any:
    return pytest.mark.parametrize(("layout", "cls"), cases, ids=[f"{x}-{cls.__name__}" for x, cls in cases])


@named(EXACT)
def test_parts_are_clipped_as_the_whole(layout: str, cls: Any, ranks: list[Any]) -> None:
    expected = alone(layout, cls)
    for rank in ranks:
        found = rank[f"{layout} {cls.__name__}"]
        for ours, theirs in zip(found["steps"], expected["steps"], strict=True):
            assert bool(ours["error"]) == bool(theirs["error"])
            assert ours["skip"] == theirs["skip"]
            assert ours["grads"].keys() == theirs["grads"].keys()
            for name, grad in theirs["grads"].items():
                torch.testing.assert_close(
                    ours["grads"][name].view_as(grad), grad, rtol=1e-4, atol=1e-7, equal_nan=True, msg=name
                )


@named(CASES)
def test_processes_agree(layout: str, cls: Any, ranks: list[Any]) -> None:
    one, other = (rank[f"{layout} {cls.__name__}"]["steps"] for rank in ranks)
    for ours, theirs in zip(one, other, strict=True):
        assert ours["skip"] == theirs["skip"]
        assert bool(ours["error"]) == bool(theirs["error"])
        for name, grad in ours["grads"].items():
            torch.testing.assert_close(grad, theirs["grads"][name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_processes_report_one_coefficient(layout: str, ranks: list[Any]) -> None:
    expected = alone(layout, NormClip)["steps"]
    for i, step in enumerate(expected):
        first, second = (rank[f"{layout} NormClip"]["steps"][i]["values"] for rank in ranks)
        assert first == second
        assert first == pytest.approx(step["values"], rel=1e-5)


def test_these_gradients_are_clipped() -> None:
    """Otherwise nothing above would tell."""
    for layout in ("trained", "rows"):
        coefficients = [step["values"]["coefficient"] for step in alone(layout, NormClip)["steps"]]
        assert min(coefficients) < 0.1
    assert coefficients[2] == 1  # an infinite entry


def test_agc_refuses_pieces_without_rows(ranks: list[Any]) -> None:
    for rank in ranks:
        assert "cut by FSDP1" in rank["flat AdaptiveClip"]["steps"][0]["error"]


def test_a_gradient_that_is_not_added_up_is_refused(ranks: list[Any]) -> None:
    for rank in ranks:
        assert "a partial gradient" in rank["partial"]
