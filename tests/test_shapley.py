"""Shapley values: their axioms, and the definition by orders in float64 NumPy."""

from __future__ import annotations

from itertools import chain, combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.shapley import shapley_values

NAMES = ("image", "text", "audio", "touch")
BATCH = 3

Game = dict[frozenset[str], Tensor]


def subsets_of(names: tuple[str, ...]) -> list[frozenset[str]]:
    sizes = range(len(names) + 1)
    return [frozenset(s) for s in chain.from_iterable(combinations(names, size) for size in sizes)]


@st.composite
def games(draw: st.DrawFn) -> tuple[Game, tuple[str, ...]]:
    """A random value for each subset of one to four modalities."""
    names = NAMES[: draw(st.integers(1, 4))]
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    return {s: torch.from_numpy(rng.normal(size=BATCH)) for s in subsets_of(names)}, names


def by_orders(game: Game, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Mean change on arrival over all orders."""
    v = {s: x.numpy() for s, x in game.items()}
    changes: dict[str, list[np.ndarray]] = {m: [] for m in names}
    for order in permutations(names):
        for at, m in enumerate(order):
            changes[m].append(v[frozenset(order[: at + 1])] - v[frozenset(order[:at])])
    return {m: np.mean(found, axis=0) for m, found in changes.items()}


@given(games())
def test_equals_the_mean_over_all_orders(case: tuple[Game, tuple[str, ...]]) -> None:
    found, expected = shapley_values(*case), by_orders(*case)
    assert list(found) == list(case[1])
    for m, phi in found.items():
        np.testing.assert_allclose(phi.numpy(), expected[m], atol=1e-13)


@given(games())
def test_efficiency(case: tuple[Game, tuple[str, ...]]) -> None:
    game, names = case
    total = torch.stack(list(shapley_values(game, names).values())).sum(dim=0)
    torch.testing.assert_close(total, game[frozenset(names)] - game[frozenset()])


@given(games())
def test_symmetry(case: tuple[Game, tuple[str, ...]]) -> None:
    """Two that can be exchanged in every subset get the same, and not all the same as a third."""
    game, names = case
    if len(names) < 2:
        return
    first, second = names[:2]
    swap = {first: second, second: first}
    twin = {s: game[s] + game[frozenset(swap.get(m, m) for m in s)] for s in game}
    phi = shapley_values(twin, names)
    torch.testing.assert_close(phi[first], phi[second])
    assert len(names) < 3 or not torch.allclose(phi[first], phi[names[2]])


@given(games(), st.floats(-2, 2))
def test_dummy(case: tuple[Game, tuple[str, ...]], worth: float) -> None:
    """One that adds the same to every subset gets just that."""
    game, names = case
    dummy = names[0]
    flat = {s: game[s - {dummy}] + worth * (dummy in s) for s in game}
    torch.testing.assert_close(shapley_values(flat, names)[dummy], torch.full((BATCH,), worth).double())


@given(games(), st.integers(0, 10**6), st.floats(-2, 2))
def test_additivity(case: tuple[Game, tuple[str, ...]], seed: int, scale: float) -> None:
    game, names = case
    rng = np.random.default_rng(seed)
    other = {s: torch.from_numpy(rng.normal(size=BATCH)) for s in game}
    both = shapley_values({s: game[s] + scale * other[s] for s in game}, names)
    one, two = shapley_values(game, names), shapley_values(other, names)
    for m in names:
        torch.testing.assert_close(both[m], one[m] + scale * two[m])


@given(games())
def test_the_order_of_names_does_not_matter(case: tuple[Game, tuple[str, ...]]) -> None:
    game, names = case
    there, back = shapley_values(game, names), shapley_values(game, names[::-1])
    for m in names:
        torch.testing.assert_close(there[m], back[m])


def test_one_number_a_subset() -> None:
    """The glove game: a left glove and two right ones, of which any pair is worth 1."""
    game = {s: torch.tensor(float("image" in s and len(s) > 1)) for s in subsets_of(NAMES[:3])}
    phi = shapley_values(game, NAMES[:3])
    assert {m: x.item() for m, x in phi.items()} == pytest.approx(
        {"image": 2 / 3, "text": 1 / 6, "audio": 1 / 6}
    )
    assert all(x.shape == () for x in phi.values())


def test_what_is_missing_is_named() -> None:
    game = {s: torch.zeros(()) for s in subsets_of(NAMES[:2]) if s not in (frozenset(), frozenset(("text",)))}
    with pytest.raises(
        ConfigError, match=r"no value for the empty subset, text; expected one for each of the 4"
    ):
        shapley_values(game, NAMES[:2])
    with pytest.raises(ConfigError, match="image, image \\+ text"):
        shapley_values({frozenset(): torch.zeros(()), frozenset(("text",)): torch.zeros(())}, NAMES[:2])
    with pytest.raises(ConfigError, match=r"no value for .*, \.\.\."):
        shapley_values({}, NAMES)


@pytest.mark.parametrize("names", [(), ("image", "image")])
def test_names_must_be_some_and_differ(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="each named once"):
        shapley_values({frozenset(): torch.zeros(()), frozenset(("image",)): torch.zeros(())}, names)
