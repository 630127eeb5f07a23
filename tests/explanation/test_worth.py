"""Was the teacher worth it: the interval against simulation, and against a formula by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.explanation.answers import Answers
from lightning_distill.explanation.worth import worth
from tests.explanation.made import NAMES, made_answers


def paired(student: np.ndarray, baseline: np.ndarray) -> Answers:
    """Answers that are right where it says so; all samples are of class 0."""
    target = torch.zeros(len(student), dtype=torch.int64)
    said = {
        name: torch.from_numpy(np.stack([right, ~right, np.zeros_like(right)], axis=1).astype(np.float32))
        for name, right in (("student", student), ("baseline", baseline))
    }
    numbers = torch.arange(len(student))
    return Answers("test", numbers, numbers, target, said, NAMES)


def draw(rng: np.random.Generator, size: int) -> Answers:
    """Both are right 60 times in 100, only the student 18, only the baseline 8: the difference is 0.1."""
    kind = rng.choice(4, size=size, p=[0.6, 0.18, 0.08, 0.14])
    return paired(kind <= 1, (kind == 0) | (kind == 2))


def test_the_interval_covers_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 draws of 150 samples; 95 % within three standard errors is 91 to 99 %."""
    monkeypatch.setattr("lightning_distill.explanation.worth._RESAMPLES", 999)
    rng = np.random.default_rng(11)
    found = [worth([draw(rng, 150)]) for _ in range(300)]
    covered = np.mean([w.low <= 0.1 <= w.high for w in found])
    assert 0.91 <= covered <= 0.99
    assert np.mean([w.low < w.difference < w.high for w in found]) == 1.0


def test_many_samples_are_as_few() -> None:
    """Above 5000 samples by counts; normal theory holds on both sides.

    The standard error of a mean is 0.007, that of its 2.5 % quantile among 9999 draws 0.0002.
    """
    for size in (5000, 5001):
        answers = draw(np.random.default_rng(5), size)
        found = worth([answers])
        p = answers.probabilities
        difference = (p["student"][:, 0] - p["baseline"][:, 0]).double().numpy()
        reach = 1.96 * difference.std(ddof=1) / size**0.5
        assert found.low == pytest.approx(difference.mean() - reach, abs=0.0006)
        assert found.high == pytest.approx(difference.mean() + reach, abs=0.0006)


def test_verdicts_of_one_pair() -> None:
    rng = np.random.default_rng(0)
    helped = worth([draw(rng, 1000)])
    assert helped.verdict.startswith("The teacher helped: +")
    assert "over 1000 samples" in helped.verdict
    assert "another seed could give another answer" in helped.verdict
    right = rng.random(400) < 0.7
    harmed = worth([paired(right & (rng.random(400) < 0.8), right)])
    assert harmed.verdict.startswith("The teacher did harm: -")
    assert harmed.high < 0
    even = worth([paired(rng.random(60) < 0.6, rng.random(60) < 0.6)])
    assert even.verdict.startswith("Whether the teacher helped cannot be told: ")
    assert even.low < 0 < even.high
    again = worth([paired(right, right)])
    assert (again.low, again.difference, again.high) == (0.0, 0.0, 0.0)
    assert "cannot be told" in again.verdict


def test_one_sample_tells_nothing() -> None:
    found = worth([paired(np.array([True]), np.array([False]))])
    assert (found.difference, found.low, found.high) == (1.0, -1.0, 1.0)


def test_pairs_by_hand() -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, sd 0.1; t of 2 degrees at 97.5 % is 4.302653 (tables)."""
    pairs = [paired(np.arange(10) < 5 + k, np.arange(10) < 5) for k in (1, 2, 3)]
    found = worth(pairs)
    reach = 4.302653 * 0.1 / 3**0.5
    assert (found.student, found.baseline, found.difference) == pytest.approx((0.7, 0.5, 0.2))
    assert (found.low, found.high) == pytest.approx((0.2 - reach, 0.2 + reach))
    assert (found.pairs, found.samples) == (3, 10)
    assert "cannot be told" in found.verdict
    assert "over 3 pairs of trainings" in found.verdict
    assert "another seed" not in found.verdict


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="no answers"):
        worth([])
    with pytest.raises(ConfigError, match="without a baseline"):
        worth([made_answers([0], {"student": [(0, 0.9)]})])
    right = np.array([True, False])
    with pytest.raises(ConfigError, match="other samples"):
        worth([paired(right, right), paired(right[:1], right[:1])])
