"""Was the teacher worth it: the intervals against the formulas by hand, simulation and exact sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

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


def alone(student: int, baseline: int, size: int) -> Answers:
    """So many samples that only one of the two gets right."""
    order = np.arange(size)
    return paired(order >= baseline, (order < baseline) | (order >= baseline + student))


def test_the_interval_covers_what_it_should() -> None:
    """500 draws of 150 samples; 95 % within three standard errors is 92 to 98 %."""
    rng = np.random.default_rng(11)
    found = [worth([draw(rng, 150)]) for _ in range(500)]
    covered = np.mean([w.low <= 0.1 <= w.high for w in found])
    assert 0.92 <= covered <= 0.98
    assert np.mean([w.low < w.difference < w.high for w in found]) == 1.0


def reference_interval(b: int, c: int, n: int) -> tuple[float, float]:
    """Bonett and Price (2012), by hand, with z from tables."""
    p, q = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = 1.959963985 * ((p + q - (p - q) ** 2) / (n + 2)) ** 0.5
    return max(-1.0, p - q - half), min(1.0, p - q + half)


@pytest.mark.parametrize(
    ("b", "c", "told"), [(3, 0, False), (5, 0, False), (6, 0, True), (0, 6, True), (12, 9, False)]
)
def test_few_samples_that_differ(b: int, c: int, told: bool) -> None:
    """Of 100: the verdict is that of McNemar's exact test at 5 %, whose p of 5 to 0 is 0.0625."""
    found = worth([alone(b, c, 100)])
    assert (found.low, found.high) == pytest.approx(reference_interval(b, c, 100), abs=1e-9)
    assert found.difference == pytest.approx((b - c) / 100)
    assert (stats.binomtest(b, b + c).pvalue <= 0.05) == told
    assert ("cannot be told" not in found.verdict) == told


@pytest.mark.parametrize("size", [50, 200, 5000])
@pytest.mark.parametrize("expected", [2, 5, 10])
def test_where_nothing_differs_little_is_found(size: int, expected: int) -> None:
    """Exact: the sum over all counts of their probability, where student and baseline are as good."""
    chance = expected / size / 2
    wrong = 0.0
    for b in range(35):
        for c in range(min(35, size - b + 1)):
            if abs(b - c) < 4:
                continue  # never told apart: see above, and the interval only grows with their sum
            probability = stats.multinomial.pmf([b, c, size - b - c], size, [chance, chance, 1 - 2 * chance])
            if probability > 1e-6:
                found = worth([alone(b, c, size)])
                wrong += probability * (found.low > 0 or found.high < 0)
    assert wrong <= 0.05


def test_many_samples_are_as_in_normal_theory() -> None:
    answers = draw(np.random.default_rng(5), 20_000)
    found, p = worth([answers]), answers.probabilities
    difference = (p["student"][:, 0] - p["baseline"][:, 0]).double().numpy()
    reach = 1.96 * difference.std(ddof=1) / 20_000**0.5
    assert found.low == pytest.approx(difference.mean() - reach, abs=0.0002)
    assert found.high == pytest.approx(difference.mean() + reach, abs=0.0002)


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
    assert again.difference == 0
    assert again.low == pytest.approx(-again.high)
    assert 0 < again.high < 0.01, "400 samples that agree still leave room"
    assert "cannot be told" in again.verdict


def test_one_sample_tells_nothing() -> None:
    found = worth([paired(np.array([True]), np.array([False]))])
    assert found.difference == 1
    assert found.low < -0.7
    assert found.high == 1


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


def test_equal_differences_are_no_certainty() -> None:
    """One sample of 10 is the least that can differ: sd 0.1, t of 1 degree at 97.5 % is 12.7062 (tables)."""
    pair = paired(np.arange(10) < 6, np.arange(10) < 5)
    found = worth([pair, pair])
    reach = 12.7062 * 0.1 / 2**0.5
    assert (found.low, found.high) == pytest.approx((0.1 - reach, 0.1 + reach), abs=1e-5)
    assert "cannot be told" in found.verdict


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="no answers"):
        worth([])
    with pytest.raises(ConfigError, match="without a baseline"):
        worth([made_answers([0], {"student": [(0, 0.9)]})])
    right = np.array([True, False])
    with pytest.raises(ConfigError, match="other samples"):
        worth([paired(right, right), paired(right[:1], right[:1])])
