"""Every head learns what takes two modalities to tell, but late fusion, which cannot; small trainings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from lightning_distill.fusion import ConcatFusion
from tests.shelves import concrete

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 300
HEADS = pytest.mark.parametrize("cls", concrete("fusion"))


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the script sets them; they end with the test
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def parts(name: str) -> tuple[Any, Any, Any]:
    """8000 samples to train on, 500 to choose by, 4000 to test on."""
    import fusion_sets

    samples = getattr(fusion_sets, name)(12_500, Generator().manual_seed(0))
    return samples[:8000], samples[8000:8500], samples[8500:]


@HEADS
def test_xor(cls: Any) -> None:
    import fusion_synthetic as synthetic

    make = synthetic.HEADS[cls.__name__]
    if "output_dim" in inspect.signature(cls).parameters:
        make = partial(cls, output_dim=32)
    found = synthetic.trial(make, parts("xor"), seed=0, steps=STEPS)["accuracy"]
    if cls.logit_additive:
        assert found <= 0.76
    else:
        assert found >= 0.95


def test_the_benchmark_runs_every_head_of_the_shelf() -> None:
    import fusion_synthetic as synthetic

    assert set(synthetic.HEADS) == {cls.__name__ for cls in concrete("fusion")}


@pytest.mark.parametrize(
    ("name", "first", "second"), [("xor", 0.5, 0.5), ("redundancy", 0.9, 0.9), ("uniqueness", 0.9, 0.5)]
)
def test_what_one_modality_alone_can_tell(name: str, first: float, second: float) -> None:
    """What is said of the sets: 3 points are almost four standard errors on 4000 samples."""
    import fusion_synthetic as synthetic

    for modality, expected in (("first", first), ("second", second)):
        found = synthetic.trial(ConcatFusion, parts(name), seed=0, steps=STEPS, modalities=(modality,))
        assert found["accuracy"] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("name", ["xor", "redundancy", "uniqueness"])
def test_the_best_answer_is_of_these_samples(name: str) -> None:
    """Its accuracy is counted, and a part of the samples has that of the part."""
    import fusion_sets

    samples = getattr(fusion_sets, name)(20_000, Generator().manual_seed(1))
    assert samples.oracle == pytest.approx(1.0 if name == "xor" else 1 - fusion_sets.FLIPPED, abs=0.01)
    if name != "xor":
        assert samples[samples.bayes != samples.target].oracle == 0
    assert samples.target.double().mean().item() == pytest.approx(0.5, abs=0.02)
    again = getattr(fusion_sets, name)(20_000, Generator().manual_seed(1))
    assert all(torch.equal(x, samples.inputs[m]) for m, x in again.inputs.items())
    for x in samples.inputs.values():
        assert x.shape == (20_000, fusion_sets.WIDTH)
        torch.testing.assert_close(x.std(dim=0), torch.ones(fusion_sets.WIDTH), atol=0.03, rtol=0)
