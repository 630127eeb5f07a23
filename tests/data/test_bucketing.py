"""Batches of texts of about the same length: every sample once, ranks even, little padding."""

from __future__ import annotations

import csv
import os
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import seed_everything
from numpy.typing import NDArray

from lightning_distill.data import ByteTextProcessor, LengthBucketed, MultimodalDataModule, Shuffle
from lightning_distill.data.sampling import BatchSampler, LengthPlan, Plan
from lightning_distill.errors import ConfigError
from tests.data.texts import Texts, epochs, some_texts


def lengths(size: int, seed: int = 0) -> NDArray[np.int64]:
    return (np.random.default_rng(seed).lognormal(2.5, 0.8, size) + 1).astype(np.int64)


def batches(
    plan: Plan, size: int, batch: int, world: int, epoch: int = 0, seed: int = 0
) -> list[list[NDArray[np.int64]]]:
    """The positions of each step: a list over the ranks."""
    ranks = []
    for rank in range(world):
        sampler = BatchSampler(size, batch, seed, True, rank, world, plan=plan)
        sampler.set_epoch(epoch)
        ranks.append([key.positions for key in sampler])
        assert len(ranks[-1]) == len(sampler)
    assert len({len(rank) for rank in ranks}) == 1
    return [list(step) for step in zip(*ranks, strict=True)]


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 4), st.integers(0, 5))
def test_every_sample_comes_once_an_epoch(size: int, batch: int, world: int, epoch: int) -> None:
    if size < world:
        return
    steps = batches(LengthPlan(length=lengths(size)), size, batch, world, epoch)
    drawn = np.concatenate([positions for step in steps for positions in step])
    assert len(drawn) == len(set(drawn.tolist())) == size // world * world
    for step in steps[:-1]:
        assert all(len(positions) == batch for positions in step)
    assert len({len(positions) for positions in steps[-1]}) == 1


def test_the_plan_is_a_function_of_seed_and_epoch() -> None:
    plan, size = LengthPlan(length=lengths(500)), 500
    one, again = (plan.order(size, 3, 2, 16) for _ in range(2))
    assert np.array_equal(one, again)
    assert sorted(one.tolist()) == list(range(size))
    assert len({tuple(plan.order(size, seed, epoch, 16)) for seed in (3, 4) for epoch in (2, 3)}) == 4


def cost(length: NDArray[np.int64], steps: list[list[NDArray[np.int64]]]) -> float:
    """Computed over real tokens."""
    rows = [positions for step in steps for positions in step]
    return float(sum(length[p].max() * len(p) for p in rows) / sum(length[p].sum() for p in rows))


@pytest.mark.parametrize("world", [1, 4])
def test_little_is_padded_and_ranks_cost_the_same(world: int) -> None:
    size = 20_000
    length = lengths(size)
    steps = batches(LengthPlan(length=length), size, 64, world)
    assert cost(length, steps) - 1 < 0.08 * (cost(length, batches(Plan(), size, 64, world)) - 1)
    widths = np.array([[length[positions].max() for positions in step] for step in steps])
    assert (widths.max(1) / widths.min(1)).mean() < 1.1
    assert abs(np.corrcoef(widths[:-1, 0], np.arange(len(widths) - 1))[0, 1]) < 0.2  # steps in any order


def test_neighbours_change_from_epoch_to_epoch() -> None:
    size = 20_000
    plan = LengthPlan(length=lengths(size))

    def pairs(epoch: int) -> set[tuple[int, int]]:
        found = np.sort(np.stack([s[0][:2] for s in batches(plan, size, 64, 1, epoch) if len(s[0]) > 1]), 1)
        return {(int(a), int(b)) for a, b in found}

    assert len(pairs(0) & pairs(1)) < 5


def make(source: Texts, sampling: Shuffle, **options: object) -> MultimodalDataModule:
    seed_everything(1, verbose=False)
    processors = {"text": ByteTextProcessor(60)}
    return MultimodalDataModule(source, processors, batch_size=16, sampling=sampling, **options)  # type: ignore[arg-type]


def test_the_data_module_draws_by_length_with_labelled_samples_added() -> None:
    texts = some_texts(410)
    source = Texts(texts, val=10)
    for options in ({}, {"in_memory": True}, {"num_workers": 1}):
        (found,) = epochs(make(source, LengthBucketed(labelled_per_batch=2), **options), 1)
        rows = [batch["sample_id"].tolist() for batch in found]
        assert [len(row) for row in rows] == [18] * 25
        own = [row[:16] for row in rows]
        assert sorted(chain.from_iterable(own)) == list(range(400))
        width = [[min(len(texts[row].encode()), 59) for row in batch] for batch in own]
        assert np.mean([max(w) - min(w) for w in width]) < 5


def test_a_modality_without_texts_is_refused() -> None:
    data = make(Texts(some_texts(40), val=4), LengthBucketed("number"))
    data.setup("fit")
    with pytest.raises(ConfigError, match=r"'number'.*one of \['text'\]"):
        data.train_dataloader()


def test_real_texts() -> None:
    folder = os.environ.get("LIGHTNING_DISTILL_DATA")
    if folder is None:
        pytest.skip("set LIGHTNING_DISTILL_DATA to the folder with the digits pack")
    texts: list[str] = []
    for name in ("number_sentences_en.csv", "number_words_78lang.csv"):
        with (Path(folder) / "digits" / name).open(encoding="utf-8", newline="") as file:
            texts += [row["text"] for row in csv.DictReader(file)]
    ratios = []
    for sampling in (Shuffle(), LengthBucketed()):
        (found,) = epochs(make(Texts(texts, val=1), sampling), 1)
        masks = [batch["inputs"]["text"]["attention_mask"] for batch in found]
        ratios.append(sum(mask.numel() for mask in masks) / sum(int(mask.sum()) for mask in masks))
    assert ratios[0] > 2
    assert ratios[1] < 1.15
