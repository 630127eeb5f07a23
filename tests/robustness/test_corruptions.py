"""What holds for every corruption: level 0, nesting, purity, and draws that follow the sample."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.robustness import Absence, Contradiction, Corruption, Noise
from lightning_distill.structures import Batch
from tests.builders import same_bits
from tests.robustness.batches import KINDS, changed, make, rows_of, tensors

WAYS = pytest.mark.parametrize("way", [Noise(), Absence(), Contradiction()], ids=lambda way: way.name)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def equal(a: Batch, b: Batch) -> bool:
    return all(same_bits(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@WAYS
@EVERY_KIND
def test_level_0_is_the_batch_bit_for_bit(way: Corruption, kind: str) -> None:
    batch = make(kind)
    before = copy.deepcopy(batch)
    assert equal(way(batch, "m", 0.0, 0), before)


@WAYS
@EVERY_KIND
@pytest.mark.parametrize("level", [0.5, 1.0])
def test_the_batch_given_and_the_other_modality_stay(way: Corruption, kind: str, level: float) -> None:
    batch = make(kind)
    before = copy.deepcopy(batch)
    after = way(batch, "m", level, 0)
    assert equal(batch, before)
    assert changed(before, after).any()
    assert same_bits(after["inputs"]["other"], before["inputs"]["other"])  # type: ignore[arg-type]
    assert same_bits(after["present"]["other"], before["present"]["other"])
    for key in ("target", "sample_id", "domain"):
        assert torch.equal(after[key], before[key])


@WAYS
@EVERY_KIND
def test_dtypes_and_shapes_stay(way: Corruption, kind: str) -> None:
    batch = make(kind)
    for a, b in zip(tensors(batch), tensors(way(batch, "m", 0.7, 0)), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)


@WAYS
@EVERY_KIND
def test_what_is_changed_at_a_level_is_changed_at_the_next(way: Corruption, kind: str) -> None:
    batch = make(kind, 60)
    found = [changed(batch, way(batch, "m", level, 0)) for level in (0.1, 0.2, 0.4, 0.7, 1.0)]
    for lower, higher in pairwise(found):
        assert not (lower & ~higher).any()
    assert found[-1].sum() >= found[0].sum() > 0


@pytest.mark.parametrize("way", [Absence(), Contradiction()], ids=lambda way: way.name)
@EVERY_KIND
def test_a_changed_sample_is_the_same_at_every_higher_level(way: Corruption, kind: str) -> None:
    batch = make(kind, 60)
    low, high = way(batch, "m", 0.4, 0), way(batch, "m", 0.8, 0)
    rows = changed(batch, low).nonzero()[:, 0]
    assert len(rows) > 5
    assert not changed(rows_of(low, rows), rows_of(high, rows)).any()


@pytest.mark.parametrize("way", [Absence(), Contradiction()], ids=lambda way: way.name)
@pytest.mark.parametrize("level", [0.2, 0.5, 0.9])
def test_the_level_is_the_share_that_changes(way: Corruption, level: float) -> None:
    batch = make("numbers", 3000)
    can = ~way.spared(batch, "m")
    share = changed(batch, way(batch, "m", level, 0))[can].double().mean().item()
    assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / int(can.sum())))


@WAYS
@EVERY_KIND
def test_spared_samples_are_those_that_level_1_does_not_change(way: Corruption, kind: str) -> None:
    batch = make(kind)
    after = changed(batch, way(batch, "m", 1.0, 0))
    assert torch.equal(way.spared(batch, "m"), ~after)
    assert way.spared(batch, "m")[[1, 6]].all(), "the modality is not there"


@WAYS
@EVERY_KIND
def test_the_order_of_the_batch_does_not_matter(way: Corruption, kind: str) -> None:
    batch = make(kind)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert equal(way(rows_of(batch, order), "m", 0.6, 0), rows_of(way(batch, "m", 0.6, 0), order))


@WAYS
@EVERY_KIND
def test_another_seed_or_modality_has_other_draws(way: Corruption, kind: str) -> None:
    batch = make(kind, 60)
    here = way(batch, "m", 0.5, 0)
    assert equal(here, way(batch, "m", 0.5, 0))
    assert changed(here, way(batch, "m", 0.5, 1)).any()
    inputs, present = batch["inputs"]["m"], batch["present"]["m"]
    renamed: Batch = {
        **batch,
        "inputs": {"n": inputs, "other": batch["inputs"]["other"]},
        "present": {"n": present, "other": batch["present"]["other"]},
    }
    there = way(renamed, "n", 0.5, 0)
    back: Batch = {**batch, "inputs": {"m": there["inputs"]["n"]}, "present": {"m": there["present"]["n"]}}
    assert changed(here, back).any()


@pytest.mark.parametrize("way", [Noise(), Absence()], ids=lambda way: way.name)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_alone_is_what_it_is_in_a_batch(way: Corruption, kind: str) -> None:
    if way.name == "noise" and kind == "text":
        pytest.skip("tokens come from other samples, see test_noise")
    batch = make(kind)
    whole = way(batch, "m", 0.6, 0)
    for row in range(12):
        assert equal(way(rows_of(batch, [row]), "m", 0.6, 0), rows_of(whole, [row]))


@WAYS
def test_what_cannot_be(way: Corruption) -> None:
    batch = make("numbers")
    with pytest.raises(ConfigError, match=r"'othr'; did you mean 'other'.*m, other"):
        way(batch, "othr", 0.5, 0)
    for level in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="from 0"):
            way(batch, "m", level, 0)
