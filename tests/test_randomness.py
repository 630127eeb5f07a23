"""Draws are functions of their keys."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import seed_everything

from lightning_distill import randomness
from lightning_distill.randomness import default_seed, derive, generator, seed_step, uniform

MASK = 2**64 - 1
IDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5)


def splitmix64(state: int) -> int:
    """Steele et al., Fast Splittable Pseudorandom Number Generators (2014), in exact integers."""
    z = state & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(IDS, st.integers(0, 2**32), st.integers(0, 1000))
def test_uniform_is_splitmix64_of_its_key(ids: list[int], seed: int, epoch: int) -> None:
    found = uniform(seed, epoch, np.array(ids, dtype=np.int64), "shift", 3)
    start = derive(seed, epoch, "shift")
    for row, sample in zip(found, ids, strict=True):
        base = splitmix64((sample & MASK) ^ start)
        for n, value in enumerate(row, start=1):
            assert value == (splitmix64(base + n * 0x9E3779B97F4A7C15) >> 40) / 2**24


def test_splitmix64_gives_the_published_sequence() -> None:
    """For seed 0."""
    golden = 0x9E3779B97F4A7C15
    wanted = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [splitmix64(n * golden) for n in (1, 2, 3)] == wanted
    states = np.array([n * golden & MASK for n in (1, 2, 3)], dtype=np.uint64)
    with np.errstate(over="ignore"):
        assert randomness.mixed(states).tolist() == wanted


@given(IDS, st.data())
def test_a_sample_draws_the_same_in_any_batch(ids: list[int], data: st.DataObject) -> None:
    whole = uniform(3, 1, np.array(ids), "noise", 2)
    order = data.draw(st.permutations(range(len(ids))))
    part = order[: data.draw(st.integers(1, len(ids)))]
    assert np.array_equal(uniform(3, 1, np.array(ids)[part], "noise", 2), whole[part])


def test_uniform_is_uniform_and_its_parts_do_not_correlate() -> None:
    ids = np.arange(20_000, dtype=np.int64)
    draws = [
        uniform(0, 0, ids, "a", 2).T,
        uniform(0, 0, ids, "b").T,
        uniform(0, 1, ids, "a").T,
        uniform(1, 0, ids, "a").T,
    ]
    flat = np.concatenate(draws).astype(np.float64)
    assert flat.min() >= 0
    assert flat.max() < 1
    counts = np.stack([np.histogram(row, bins=16, range=(0, 1))[0] for row in flat])
    expected = len(ids) / 16
    assert ((counts - expected) ** 2 / expected).sum(axis=1).max() < 45  # chi-square, 15 degrees: 1 in 10 000
    correlation = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(correlation).max() < 0.03
    assert abs(np.corrcoef(flat[0, :-1], flat[0, 1:])[0, 1]) < 0.03


@given(st.integers(), st.text(max_size=5), st.integers())
def test_derive_depends_on_every_part(a: int, b: str, c: int) -> None:
    key = derive(a, b, c)
    assert key == derive(a, b, c)
    assert 0 <= key < 2**63
    others = [derive(a + 1, b, c), derive(a, b + "x", c), derive(a, b, c + 1), derive(a, b), derive(b, a, c)]
    assert key not in others


def test_derive_tells_numbers_from_texts_and_where_a_part_ends() -> None:
    keys = [derive(1, 2), derive("1", 2), derive("1, 2"), derive(12), derive(1, "2"), derive("12")]
    assert len(set(keys)) == len(keys)


def test_generator_starts_anew() -> None:
    assert np.array_equal(generator(0, "order", 3).permutation(50), generator(0, "order", 3).permutation(50))
    assert not np.array_equal(
        generator(0, "order", 3).permutation(50), generator(0, "order", 4).permutation(50)
    )


def test_a_step_is_a_function_of_seed_step_and_rank() -> None:
    drawn = {}
    for key in itertools.product((0, 1), (0, 1), (0, 1)):
        torch.rand(5)
        seed_step(*key)
        drawn[key] = torch.rand(8)
    for key, values in drawn.items():
        seed_step(*key)
        assert torch.equal(torch.rand(8), values)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn.values(), 2))


@pytest.mark.parametrize("seed", [0, 7])
def test_the_seed_is_that_of_seed_everything(seed: int) -> None:
    assert default_seed() == 0
    seed_everything(seed, verbose=False)
    assert default_seed() == seed
