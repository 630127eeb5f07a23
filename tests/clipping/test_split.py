"""Rules on gradients of which each process has a part, beside the same rules on whole ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_distill.clipping import AdaptiveClip, NormClip, TargetFractionClip, ValueClip
from tests.clipping.split_ranks import clipped, main, trained
from tests.processes import needs_fork, run_apart
from tests.shelves import concrete

LAYOUTS = ("trained", "fsdp1", "rows", "columns", "hybrid", "strided", "mixed", "meshes", "flat")
SAMPLED = (TargetFractionClip,)
"""Each process looks at a sample of its own part."""

pytestmark = needs_fork


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("split")
    run_apart(main, folder)
    return [torch.load(folder / f"rank{r}.pt") for r in (0, 1)]


def alone(layout: str, cls: Any) -> Any:
    return trained(cls) if layout in ("trained", "fsdp1") else clipped(cls)


CASES = [(layout, cls) for layout in LAYOUTS for cls in concrete("clipping")]
NO_ROWS = ("flat", "fsdp1")
EXACT = [(x, cls) for x, cls in CASES if cls not in SAMPLED and not (x in NO_ROWS and cls is AdaptiveClip)]


def named(cases: list[tuple[str, Any]]) -> Any:
    return pytest.mark.parametrize(("layout", "cls"), cases, ids=[f"{x}-{cls.__name__}" for x, cls in cases])


def steps(ranks: list[Any], layout: str, cls: Any) -> list[tuple[Any, Any]]:
    """What both processes found in each step."""
    first, second = (rank[f"{layout} {cls.__name__}"]["steps"] for rank in ranks)
    return list(zip(first, second, strict=True))


def whole(parts: tuple[Any, Any]) -> torch.Tensor:
    """A gradient of which both have a part, or both all."""
    (first, dim), (second, _) = parts
    if dim is not None:
        return torch.cat([first, second], dim)
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    return first


@named(EXACT)
def test_parts_are_clipped_as_the_whole(layout: str, cls: Any, ranks: list[Any]) -> None:
    expected = alone(layout, cls)["steps"]
    for (first, second), step in zip(steps(ranks, layout, cls), expected, strict=True):
        assert bool(first["error"]) == bool(step["error"])
        assert first["skip"] == step["skip"]
        assert first["grads"].keys() == step["grads"].keys()
        for name, (grad, _) in step["grads"].items():
            found = whole((first["grads"][name], second["grads"][name])).view_as(grad)
            torch.testing.assert_close(found, grad, rtol=1e-4, atol=1e-7, equal_nan=True)


@named(CASES)
def test_processes_agree(layout: str, cls: Any, ranks: list[Any]) -> None:
    """On errors, on steps to skip and on what both hold whole."""
    for first, second in steps(ranks, layout, cls):
        assert first["skip"] == second["skip"]
        assert bool(first["error"]) == bool(second["error"])
        for name, part in first["grads"].items():
            whole((part, second["grads"][name]))


@pytest.mark.row("D8")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_processes_report_one_norm_and_coefficient(layout: str, ranks: list[Any]) -> None:
    expected = alone(layout, NormClip)["steps"]
    for (first, second), step in zip(steps(ranks, layout, NormClip), expected, strict=True):
        assert first["values"] == second["values"]
        assert first["values"] == pytest.approx(step["values"], rel=1e-6)


def test_these_gradients_are_clipped() -> None:
    """Otherwise nothing above would tell."""
    for layout in ("trained", "rows"):
        coefficients = [step["values"]["coefficient"] for step in alone(layout, NormClip)["steps"]]
        assert min(coefficients) < 0.1
    assert coefficients[2] == 1  # an infinite entry


def test_processes_under_fsdp1_have_gradients_of_different_parameters(ranks: list[Any]) -> None:
    """Otherwise the comparison would not tell whether they speak of the same ones."""
    first, second = (rank["fsdp1 NormClip"]["steps"][0]["missing"] for rank in ranks)
    assert first
    assert second
    assert not set(first) & set(second)


@pytest.mark.parametrize("layout", NO_ROWS)
def test_agc_refuses_pieces_without_rows(layout: str, ranks: list[Any]) -> None:
    for rank in ranks:
        assert "cut by FSDP1" in rank[f"{layout} AdaptiveClip"]["steps"][0]["error"]


def test_a_gradient_that_is_not_added_up_is_refused(ranks: list[Any]) -> None:
    for rank in ranks:
        assert "a partial gradient" in rank["partial"]


def test_fsdp1_tells_over_which_processes_it_splits(ranks: list[Any]) -> None:
    """Sums over all of them would count several times what several have whole: here HYBRID_SHARD keeps two
    copies, each in one piece.
    """
    for rank in ranks:
        assert rank["groups"] == {"FULL_SHARD": 2, "NO_SHARD": None, "HYBRID_SHARD": None, "plain": None}


def test_split_by_rows_little_is_asked_of_other_processes(ranks: list[Any]) -> None:
    """AGC asks for all vectors together, their gradients and weights, and never for a matrix."""
    for rank in ranks:
        found = {cls: rank[f"asked by {cls.__name__}"] for cls in (ValueClip, NormClip, AdaptiveClip)}
        assert found == {ValueClip: 0, NormClip: 1, AdaptiveClip: 2}
