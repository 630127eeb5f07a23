"""Which rows of which domain make a batch: every pass complete, and a function of (seed, epoch, number)."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightning_distill.data import BatchKey, BatchSampler, DomainSampler
from lightning_distill.data.sampling import Extra, Plan

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=3)
PLAN = Plan()
WIDTHS = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))


def make(
    sizes: list[int],
    widths: tuple[int, ...] = (4, 3, 2),
    train: bool = True,
    rank: int = 0,
    world: int = 1,
    first: tuple[int, int] = (0, 0),
    plan: Plan = PLAN,
) -> DomainSampler:
    domains = [
        BatchSampler(size, widths[at], at, train, rank, world, plan=plan) for at, size in enumerate(sizes)
    ]
    return DomainSampler(domains, first)


def epoch(sampler: DomainSampler, number: int) -> list[BatchKey]:
    sampler.set_epoch(number)
    return list(sampler)


def of_domain(keys: list[BatchKey], sizes: list[int], at: int) -> list[NDArray[np.int64]]:
    """The rows of one domain in each batch, counted from its first."""
    start = sum(sizes[:at])
    return [k.positions[(k.positions >= start) & (k.positions < start + sizes[at])] - start for k in keys]


def same(one: list[BatchKey], other: list[BatchKey]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(
        np.array_equal(a.positions, b.positions)
        and (a.epoch, a.number, a.view) == (b.epoch, b.number, b.view)
        for a, b in pairs
    )


@given(SIZES, WIDTHS, st.integers(1, 3))
def test_a_pass_is_complete_before_the_next_begins(
    sizes: list[int], widths: tuple[int, ...], world: int
) -> None:
    sizes = [size + world for size in sizes]
    everywhere = [make(sizes, widths, rank=rank, world=world) for rank in range(world)]
    steps = {len(sampler) for sampler in everywhere}
    keys = [[key for number in range(3) for key in epoch(sampler, number)] for sampler in everywhere]
    assert {len(found) for found in keys} == {3 * steps.pop()}
    for at, size in enumerate(sizes):
        a_pass = size // world
        for found in keys:
            drawn = np.concatenate(of_domain(found, sizes, at))
            for start in range(0, len(drawn), a_pass):
                assert max(Counter(drawn[start : start + a_pass].tolist()).values()) == 1
        first = [np.concatenate(of_domain(found, sizes, at))[:a_pass] for found in keys]
        assert len(set(np.concatenate(first).tolist())) == a_pass * world  # no two ranks have the same


def test_batches_are_those_of_each_domains_own_passes() -> None:
    """Batch n of epoch e is batch (e S + n) mod c of pass (e S + n) div c: 5, 3 and 2 batches a pass."""
    sizes, widths, counts = [18, 8, 3], (4, 3, 2), (5, 3, 2)
    sampler = make(sizes)
    assert len(sampler) == 5
    for number in range(4):
        keys = epoch(sampler, number)
        for at, (size, width, count) in enumerate(zip(sizes, widths, counts, strict=True)):
            for n, rows in enumerate(of_domain(keys, sizes, at)):
                turn, place = divmod(number * 5 + n, count)
                order = Plan().order(size, at, turn, width)
                assert np.array_equal(rows, order[place * width : (place + 1) * width])
    # Domain after domain, and the view changes with each pass of the shortest domain.
    keys = [key for number in range(3) for key in epoch(sampler, number)]
    domains = [np.digitize(key.positions, [18, 26]) for key in keys]
    assert all((np.diff(found) >= 0).all() for found in domains)
    assert [key.shown for key in keys] == [g // 2 for g in range(15)]


@pytest.mark.parametrize("first", [(0, 0), (0, 3), (1, 0), (2, 4), (3, 1)])
def test_it_goes_on_from_any_batch(first: tuple[int, int]) -> None:
    sizes, plan = [18, 8, 3], Plan(Extra(np.array([0, 1, 2]), 2))
    resumed = make(sizes, first=first, plan=plan)
    rest = list(resumed)
    assert same(rest, epoch(make(sizes, plan=plan), first[0])[first[1] :])
    assert same(epoch(resumed, first[0] + 1), epoch(make(sizes, plan=plan), first[0] + 1))


def test_two_iterations_do_not_disturb_each_other() -> None:
    sampler = make([18, 8, 3])
    expected = epoch(sampler, 1)
    first, second = iter(sampler), iter(sampler)
    drawn = [(next(first), next(second)) for _ in range(5)]
    assert same([a for a, _ in drawn], expected)
    assert same([b for _, b in drawn], expected)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=3), WIDTHS, st.integers(1, 3))
def test_evaluation_sees_every_sample_once(sizes: list[int], widths: tuple[int, ...], world: int) -> None:
    sizes[0] += max(0, world - sum(sizes))  # else some rank has nothing
    found = [epoch(make(sizes, widths, train=False, rank=rank, world=world), 0) for rank in range(world)]
    pairs = zip(sizes, widths, strict=False)
    wanted = max(math.ceil(math.ceil(size / world) / width) for size, width in pairs)
    assert {len(keys) for keys in found} == {min(wanted, sum(sizes) // world)}  # none is empty
    everything = np.concatenate([key.positions for keys in found for key in keys])
    assert sorted(everything.tolist()) == list(range(sum(sizes)))
    assert all(len(key.positions) for keys in found for key in keys)
    assert all(key.view is None for keys in found for key in keys)
    for at in range(len(sizes)):
        for keys in found:
            rows = [len(part) for part in of_domain(keys, sizes, at)]
            assert max(rows) - min(rows) <= 1  # so that terms between domains see both
            if wanted <= sum(sizes) // world:
                assert max(rows) <= widths[at]


def test_evaluation_has_as_many_batches_as_the_domain_with_most() -> None:
    sampler = make([9, 2], (4, 4), train=False)
    assert len(sampler) == 3
    assert [key.positions.tolist() for key in sampler] == [[0, 1, 2, 9], [3, 4, 5, 10], [6, 7, 8]]
