"""What training draws from: all samples, classes in balance, only complete samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import seed_everything
from numpy.typing import NDArray

from lightning_distill.data import ClassBalanced, ModalityPaired, SampleTable, Shuffle
from lightning_distill.data.sampling import BatchSampler
from lightning_distill.errors import ConfigError
from lightning_distill.structures import UNLABELLED
from tests.builders import VectorSource, make_data


def table(target: NDArray[np.int64]) -> SampleTable:
    zeros = np.zeros(len(target), np.int64)
    present = {m: np.ones(len(target), np.bool_) for m in ("a", "b")}
    return SampleTable(np.arange(len(target)), target, zeros.astype(np.int8), zeros, present)


def no_lengths(modality: str) -> NDArray[np.int64]:
    raise AssertionError("lengths do not matter here")


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.integers(0, 3), st.integers(0, 3))
def test_every_class_comes_as_often_as_any_other(sizes: list[int], seed: int, epoch: int) -> None:
    target = np.repeat(np.arange(len(sizes)), sizes)
    samples, rows = table(target), np.arange(len(target))
    sampler = BatchSampler(len(rows), 4, seed, True, plan=ClassBalanced().plan(samples, rows, no_lengths))
    sampler.set_epoch(epoch)
    drawn = np.concatenate([key.positions for key in sampler])
    assert len(drawn) == len(rows)
    counts = np.bincount(target[drawn], minlength=len(sizes))
    assert counts.max() - counts.min() <= 1
    for at in range(len(sizes)):  # nothing comes again before all have come
        times = np.bincount(drawn, minlength=len(rows))[target == at]
        assert times.max() - times.min() <= 1
    assert np.array_equal(drawn, np.concatenate([key.positions for key in sampler]))


def test_balance_is_for_labelled_rows_with_one_class() -> None:
    target = np.array([0, UNLABELLED, 1, 1])
    rows = np.arange(4)
    assert ClassBalanced().usable(table(target), rows).tolist() == [True, False, True, True]
    with pytest.raises(ConfigError, match="one class a sample"):
        ClassBalanced().plan(table(np.zeros((4, 2), np.float32)), rows, no_lengths)  # type: ignore[arg-type]


def test_the_data_module_draws_as_it_is_told() -> None:
    seed_everything(1, verbose=False)
    source = VectorSource(train=28, val=5, unlabelled=[3, 4], absent={"a": [0, 1], "b": [2]})

    def ids(data: object) -> list[int]:
        data.setup("fit")  # type: ignore[attr-defined]
        return sorted(int(i) - 5000 for b in data.train_dataloader() for i in b["sample_id"])  # type: ignore[attr-defined]

    assert ids(make_data(source)) == list(range(28))
    assert ids(make_data(source, sampling=ModalityPaired(["a", "b"]))) == list(range(3, 28))
    paired = ModalityPaired(["a", "b"], unlabelled=False)
    assert ids(make_data(source, sampling=paired)) == list(range(5, 28))
    balanced = ids(make_data(source, sampling=ClassBalanced()))
    assert len(balanced) == 26
    assert not {3, 4} & set(balanced)
    more = ids(make_data(source, sampling=Shuffle(labelled_per_batch=3)))
    assert len(more) == 28 + 3 * 4


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="two modalities"):
        ModalityPaired(["image"])
    with pytest.raises(ConfigError, match="labelled_per_batch"):
        Shuffle(labelled_per_batch=-1)
    data = make_data(sampling=ModalityPaired(["a", "bb"]))
    with pytest.raises(ConfigError, match="did you mean 'b'"):
        data.setup("fit")
    unlabelled = VectorSource(unlabelled=range(28))
    data = make_data(unlabelled, sampling=Shuffle(labelled_per_batch=2))
    data.setup("fit")
    with pytest.raises(ConfigError, match="no labelled training sample"):
        data.train_dataloader()
