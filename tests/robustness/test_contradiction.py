from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.robustness import Contradiction
from lightning_distill.structures import UNLABELLED
from tests.robustness.batches import make, rows_of

MULTILABEL = torch.tensor([[1, 0], [1, 0], [0, 1], [-1, -1]], dtype=torch.int8)
NUMBERS = torch.tensor([[1.0], [1.0], [2.0], [math.nan]])


def donors_by_hand(batch: Any, row: int) -> set[int]:
    """One pair at a time."""
    found = set()
    for other in range(len(batch["target"])):
        both_there = bool(batch["present"]["m"][row]) and bool(batch["present"]["m"][other])
        theirs = int(batch["target"][other])
        if both_there and theirs not in (UNLABELLED, int(batch["target"][row])):
            found.add(other)
    return found


def drawn(batch: Any, seed: int, level: float = 1.0) -> list[int]:
    """From which row each sample's modality has come; all rows of `make` differ."""
    before, after = batch["inputs"]["m"], Contradiction()(batch, "m", level, seed)["inputs"]["m"]
    same = (before[None, :] == after[:, None]).all(dim=2)  # type: ignore[index]
    assert (same.sum(dim=1) == 1).all()
    return same.int().argmax(dim=1).tolist()


def test_donors_are_those_of_another_class_and_equally_likely() -> None:
    batch, seeds = make("numbers"), 600
    counts = [Counter[int]() for _ in range(12)]
    for seed in range(seeds):
        for row, donor in enumerate(drawn(batch, seed)):
            counts[row][donor] += 1
    for row, count in enumerate(counts):
        expected = donors_by_hand(batch, row)
        if not expected:
            assert set(count) == {row}
            continue
        assert set(count) == expected
        p = 1 / len(expected)
        widest = 4.5 * math.sqrt(p * (1 - p) / seeds)
        assert np.allclose([n / seeds for n in count.values()], p, rtol=0, atol=widest)


def test_the_donor_does_not_depend_on_the_level() -> None:
    batch = make("numbers", 40)
    low, high = drawn(batch, 0, 0.5), drawn(batch, 0, 1.0)
    assert all(a in (row, b) for row, (a, b) in enumerate(zip(low, high, strict=True)))


def test_no_sample_of_another_class_no_contradiction() -> None:
    batch = make("numbers")
    alike: Any = rows_of(batch, [0, 3, 9])
    assert drawn(alike, 0) == [0, 1, 2]
    assert Contradiction().spared(alike, "m").all()
    alone: Any = rows_of(batch, [0])
    assert drawn(alone, 0) == [0]


@pytest.mark.parametrize("target", [MULTILABEL, NUMBERS], ids=["multilabel", "numbers"])
def test_other_targets_take_any_other_sample_that_has_one(target: torch.Tensor) -> None:
    batch: Any = {**rows_of(make("numbers"), [0, 2, 3, 5]), "target": target}
    seen = [drawn(batch, seed) for seed in range(60)]
    assert [set(rows) for rows in zip(*seen, strict=True)] == [{1, 2}, {0, 2}, {0, 1}, {0, 1, 2}]


def test_a_text_travels_with_its_mask() -> None:
    batch: Any = make("text")
    after: Any = Contradiction()(batch, "m", 1.0, 0)["inputs"]["m"]
    lengths = {
        int(ids[0]): int(mask.sum())
        for ids, mask in zip(*(batch["inputs"]["m"][k] for k in ("input_ids", "attention_mask")), strict=True)
    }
    for ids, mask in zip(after["input_ids"], after["attention_mask"], strict=True):
        assert int(mask.sum()) == lengths[int(ids[0])]
