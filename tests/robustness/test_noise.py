from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.robustness import Noise
from tests.robustness.batches import make, rows_of


def with_inputs(inputs: Any, size: int = 2) -> Any:
    """A batch that holds these."""
    return {
        "inputs": {"m": inputs},
        "present": {"m": torch.ones(size, dtype=torch.bool)},
        "target": torch.arange(size) % 2,
        "sample_id": torch.arange(size) + 71,
        "domain": torch.zeros(size, dtype=torch.int64),
    }


def noisy(inputs: Any, level: float = 1.0, scale: float = 2.0, seed: int = 0) -> Any:
    return Noise(scale)(with_inputs(inputs), "m", level, seed)["inputs"]["m"]


def test_its_size_is_that_of_each_sample() -> None:
    """Normal, of mean 0, of the deviation level * scale * s, and not the same in any two samples."""
    size = 40_000
    x = torch.stack([torch.linspace(-1, 1, size), 50 + 9 * torch.linspace(-1, 1, size) ** 2]).double()
    added = (noisy(x, 0.25, 3.0) - x).numpy()
    for row, own in zip(added, x.numpy(), strict=True):
        z = row / (0.25 * 3.0 * math.sqrt(np.mean((own - own.mean()) ** 2)))
        assert abs(z.mean()) < 4.5 / math.sqrt(size)
        assert abs(np.mean(z**2) - 1) < 4.5 * math.sqrt(2 / size)
        assert abs(np.mean(z**4) - 3) < 4.5 * math.sqrt(96 / size)
        assert abs(np.mean(z[1:] * z[:-1])) < 4.5 / math.sqrt(size)
    assert abs(np.corrcoef(added)[0, 1]) < 4.5 / math.sqrt(size)


def test_of_two_values_the_deviation_is_half_their_distance() -> None:
    size = 4000
    x = torch.tensor([[0.0, 8.0]]).expand(size, 2)
    added: Any = Noise(1.0)(with_inputs(x, size), "m", 1.0, 0)["inputs"]["m"] - x  # type: ignore[operator]
    z = added.double().numpy() / 4
    assert abs(np.mean(z**2) - 1) < 4.5 * math.sqrt(2 / (2 * size))


def test_it_is_the_same_noise_at_every_level() -> None:
    x = torch.randn(2, 50, dtype=torch.float64)
    torch.testing.assert_close(noisy(x, 0.8) - x, 4 * (noisy(x, 0.2) - x), rtol=1e-9, atol=1e-9)


def test_images_are_the_numbers_rounded_and_held_in_range() -> None:
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    expected = np.clip(np.rint(noisy(x.double(), 0.7).numpy()), 0, 255)
    found = noisy(x, 0.7)
    assert found.dtype == torch.uint8
    # Where the sum lies halfway between two integers, float32 and float64 may round apart.
    assert (found.numpy() != expected).sum() <= 1
    assert {0, 255} <= set(expected.flatten().tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_types_stay(dtype: torch.dtype) -> None:
    found = noisy(torch.randn(2, 30).to(dtype))
    assert found.dtype == dtype
    assert found.isfinite().all()


def test_equal_values_stay() -> None:
    x = torch.stack([torch.full((1000,), 0.1), torch.linspace(0, 1, 1000)])
    found = noisy(x)
    assert torch.equal(found[0], x[0])
    assert (found[1] != x[1]).all()
    assert Noise().spared(with_inputs(x), "m").tolist() == [True, False]


def test_what_absent_samples_hold_stays_even_nan() -> None:
    batch: Any = with_inputs(torch.stack([torch.full((4,), math.nan), torch.arange(4.0)]))
    batch["present"]["m"][0] = False
    found: Any = Noise()(batch, "m", 1.0, 0)["inputs"]["m"]
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def test_of_a_dict_the_floating_point_parts_get_noise() -> None:
    batch: Any = make("dict")
    found: Any = Noise()(batch, "m", 1.0, 0)["inputs"]["m"]
    assert torch.equal(found["steps"], batch["inputs"]["m"]["steps"])
    assert (found["values"][0] != batch["inputs"]["m"]["values"][0]).all()


# -- tokens -------------------------------------------------------------------------------------------


def replaced(batch: Any, level: float) -> tuple[Tensor, Tensor]:
    """The new ids, and where they differ; no id of `make` occurs twice."""
    ids = Noise()(batch, "m", level, 0)["inputs"]["m"]["input_ids"]  # type: ignore[index, call-overload]
    return ids, ids != batch["inputs"]["m"]["input_ids"]


def inner_of(batch: Any) -> Tensor:
    """Neither padding nor first nor last, one text at a time."""
    inner = torch.zeros_like(batch["inputs"]["m"]["input_ids"], dtype=torch.bool)
    for row, mask in enumerate(batch["inputs"]["m"]["attention_mask"]):
        real = mask.nonzero()[:, 0].tolist()
        inner[row, real[1:-1]] = bool(batch["present"]["m"][row])
    return inner


def test_at_level_1_every_inner_token_is_one_of_another_text() -> None:
    batch: Any = make("text")
    ids, differ = replaced(batch, 1.0)
    inner = inner_of(batch)
    assert torch.equal(differ, inner)
    was = batch["inputs"]["m"]["input_ids"]
    pools = [set(was[row][inner[row]].tolist()) for row in range(12)]
    for row in range(12):
        others = set().union(*(pool for other, pool in enumerate(pools) if other != row))
        assert set(ids[row][differ[row]].tolist()) <= others


def test_every_token_of_another_text_is_as_likely() -> None:
    batch: Any = rows_of(make("text"), [0, 2, 3])
    was, inner = batch["inputs"]["m"]["input_ids"], inner_of(batch)
    others = was[1:][inner[1:]].tolist()
    counts = dict.fromkeys(others, 0)
    for seed in range(800):
        ids: Any = Noise()(batch, "m", 1.0, seed)["inputs"]["m"]
        for token in ids["input_ids"][0][inner[0]].tolist():
            counts[token] += 1
    total, p = sum(counts.values()), 1 / len(others)
    widest = 4.5 * math.sqrt(p * (1 - p) / total)
    assert np.allclose([n / total for n in counts.values()], p, rtol=0, atol=widest)


def test_the_level_is_the_share_of_tokens_and_they_are_nested() -> None:
    batch: Any = make("text", 600)
    inner = inner_of(batch)
    before = torch.zeros_like(inner)
    for level in (0.2, 0.4, 0.8):
        ids, differ = replaced(batch, level)
        assert not (before & ~differ).any()
        share = differ[inner].double().mean().item()
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / int(inner.sum())))
        before = differ
        assert torch.equal(ids[differ], replaced(batch, 1.0)[0][differ])


def test_which_tokens_go_depends_neither_on_the_batch_nor_on_padding() -> None:
    batch: Any = make("text")
    _, whole = replaced(batch, 0.5)
    _, some = replaced(rows_of(batch, [0, 5, 7]), 0.5)
    assert torch.equal(some, whole[[0, 5, 7]])
    padded = {k: F.pad(x, (4, 2)) for k, x in batch["inputs"]["m"].items()}
    _, wide = replaced({**batch, "inputs": {**batch["inputs"], "m": padded}}, 0.5)
    assert torch.equal(wide, F.pad(whole, (4, 2)))


def test_a_text_alone_or_too_short_stays() -> None:
    batch: Any = make("text")
    alone = rows_of(batch, [0])
    assert not replaced(alone, 1.0)[1].any()
    assert Noise().spared(alone, "m").all()
    batch["inputs"]["m"]["attention_mask"][0, 2:] = 0
    assert not replaced(batch, 1.0)[1][0].any()
    assert Noise().spared(batch, "m").tolist()[:3] == [True, True, False]


def test_without_a_mask_all_tokens_are_real() -> None:
    batch: Any = with_inputs({"input_ids": torch.arange(10).view(2, 5)})
    differ = replaced(batch, 1.0)[1]
    assert differ.tolist() == [[False, True, True, True, False]] * 2


def test_what_cannot_be() -> None:
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"Noise\.scale"):
            Noise(scale)
    with pytest.raises(ConfigError, match=r"modality 'm': found torch\.int64"):
        noisy(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"rank torch\.int64"):
        noisy({"rank": torch.ones(2, 3, dtype=torch.int64)})
