"""Measures of the verdict against float64 references written another way, and what the verdict must obey."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lightning_distill.assessment import (
    assess,
    calibration_error,
    general_share,
    linear_cka,
    rank_agreement,
    signal,
)
from lightning_distill.errors import ConfigError
from lightning_distill.readability import FOLDS, PENALTIES, read_out
from lightning_distill.structures import ModelOutput

ROOT = Path(__file__).parents[1]


def fitted(x: np.ndarray, y: np.ndarray, penalty: float, new: np.ndarray) -> np.ndarray:
    """Ridge regression as a least-squares problem with more rows."""
    centre, mean = x.mean(0), y.mean(0)
    rows = np.vstack([x - centre, np.sqrt(penalty) * np.eye(x.shape[1])])
    w = np.linalg.lstsq(rows, np.vstack([y - mean, np.zeros((x.shape[1], y.shape[1]))]), rcond=None)[0]
    return np.asarray(mean + (new - centre) @ w)


def slow_read_out(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Leaves samples out one by one, and fits again each time."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).numpy()
    out = np.empty_like(y)
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        a, b = np.delete(x, held, axis=0), np.delete(y, held, axis=0)
        spread = np.linalg.svd(a - a.mean(0), compute_uv=False)
        penalties = [share * np.mean(spread**2) for share in PENALTIES]
        errors = []
        for penalty in penalties:
            left = [
                b[i] - fitted(np.delete(a, i, 0), np.delete(b, i, 0), penalty, a[i : i + 1])[0]
                for i in range(len(a))
            ]
            errors.append(np.square(left).sum())
        out[held] = fitted(a, b, penalties[int(np.argmin(errors))], x[held])
    return out


@pytest.mark.parametrize("dim", [3, 40])
def test_read_out_is_ridge_with_samples_left_out(dim: int) -> None:
    """Fewer dimensions than samples, and more."""
    x = torch.randn(30, dim, dtype=torch.float64)
    y = x[:, :2] @ torch.randn(2, 2, dtype=torch.float64) + torch.randn(30, 2, dtype=torch.float64)
    torch.testing.assert_close(
        read_out(x, y), torch.from_numpy(slow_read_out(x.numpy(), y.numpy())), rtol=1e-8, atol=1e-8
    )


def test_general_share_is_the_part_that_is_seen() -> None:
    """Half of the variance of the teacher's gap comes from columns that the student has."""
    hidden, x = torch.randn(4000, 3), torch.randn(4000, 6)
    gap = (x[:, :3] + hidden).sum(dim=1)
    logits = torch.stack([gap, torch.zeros(4000)], dim=1) + torch.randn(4000, 1) * 100  # a shift says nothing
    assert general_share(x, logits) == pytest.approx(0.5, abs=0.03)
    assert general_share(torch.randn(4000, 6), logits) < 0.01
    assert general_share(x, torch.zeros(4000, 2)) == 0.0
    assert general_share(torch.zeros(4000, 6), logits) == 0.0


def slow_hsic(k: np.ndarray, l_: np.ndarray) -> float:
    """The U-statistic: a mean over all ordered choices of four different samples."""
    n, total, count = len(k), 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (l_[i, j] + l_[q, r] - 2 * l_[i, q])
                        count += 1
    return total / count


def test_cka_is_made_of_unbiased_hsic() -> None:
    a, b = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    k, l_ = (a @ a.T).numpy(), (b @ b.T).numpy()
    expected = slow_hsic(k, l_) / np.sqrt(slow_hsic(k, k) * slow_hsic(l_, l_))
    assert linear_cka(a, b) == pytest.approx(expected, abs=1e-9)


def test_cka_is_near_nothing_for_unrelated_wide_features() -> None:
    values = [linear_cka(torch.randn(20, 100), torch.randn(20, 100)) for _ in range(30)]
    assert abs(np.mean(values)) < 0.1
    x = torch.randn(20, 100, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(100, 100, dtype=torch.float64))[0]
    assert linear_cka(x, 3 * x @ turn + 5) == pytest.approx(1.0, abs=1e-9)
    assert linear_cka(x, torch.zeros(20, 3)) == 0.0


def test_rank_agreement_is_kendalls_tau() -> None:
    teacher = torch.randint(0, 4, (300, 6)).double()  # with ties
    student = torch.randn(300, 6, dtype=torch.float64)
    found = [stats.kendalltau(t, s).statistic for t, s in zip(teacher, student, strict=True)]
    assert rank_agreement(teacher, student) == pytest.approx(float(np.nan_to_num(found).mean()), abs=1e-12)
    assert rank_agreement(student, -student) == pytest.approx(-1.0)
    assert rank_agreement(torch.zeros(2, 3), student[:2, :3]) == 0.0


def test_calibration_error_in_bins() -> None:
    logits, target = 3 * torch.randn(200, 4), torch.randint(0, 4, (200,))
    p = logits.double().softmax(dim=1).numpy()
    top, right = p.max(axis=1), p.argmax(axis=1) == target.numpy()
    which = np.minimum(np.ceil(top * 15) - 1, 14)
    expected = sum(abs(right[which == b].sum() - top[which == b].sum()) for b in range(15)) / 200
    assert calibration_error(logits, target) == pytest.approx(expected, abs=1e-6)


def world() -> tuple[Tensor, Tensor, Tensor]:
    """Features of the student, features that only the teacher sees, labels made of both."""
    x, hidden = torch.randn(1500, 5), torch.randn(1500, 5)
    return x, hidden, ((x + hidden).sum(dim=1) > 0).long()


def two(gap: Tensor) -> Tensor:
    return torch.stack([-gap / 2, gap / 2], dim=1)


def test_the_verdict_tells_good_teachers_from_others() -> None:
    x, hidden, y = world()
    general = signal(x, two(x.sum(dim=1)), y).expected_help
    everything = signal(x, two((x + hidden).sum(dim=1)), y).expected_help
    unseen = signal(x, two(hidden.sum(dim=1)), y).expected_help
    wrong = signal(x, two(x[:, 0] - x[:, 1]), y).expected_help
    assert general > everything > unseen
    assert general > 0.3
    assert unseen < 0
    assert wrong < 0  # all of it can be read, and none of it bears on the labels


def test_the_fewer_labels_the_more_help() -> None:
    x, hidden, y = world()
    teacher = two((x + hidden).sum(dim=1))
    all_labels, few = (signal(x, teacher, y, share).expected_help for share in (1.0, 0.01))
    assert few - all_labels == pytest.approx(0.99 * signal(x, teacher, y).told)


def test_the_verdict_and_its_words() -> None:
    x, hidden, y = world()
    verdict = assess(x, ModelOutput(two(x.sum(dim=1))), y, student=two(x.sum(dim=1)))
    assert verdict.word == "helps"
    assert verdict.measures["rank_agreement"] == pytest.approx(1.0)
    assert verdict.measures["student_accuracy"] == verdict.measures["teacher_accuracy"]
    assert len(verdict.evidence) == 6
    assert assess(x, ModelOutput(two(hidden.sum(dim=1))), y).word == "harms or cannot tell"


def test_too_few_samples_are_refused() -> None:
    x, _, y = world()
    with pytest.raises(ConfigError, match="20 samples or more"):
        signal(x[:10], two(x[:10, 0]), y[:10])
    with pytest.raises(ConfigError, match="the same"):
        linear_cka(x, x[:100])


# -- the benchmark --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mfh() -> Any:
    spec = importlib.util.spec_from_file_location("mfh", ROOT / "benchmarks" / "mfh.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mfh"] = module
    spec.loader.exec_module(module)
    return module


def test_shares_are_those_of_the_paper(mfh: Any) -> None:
    assert [s.gamma for s in mfh.experiment_1()] == pytest.approx([o / (20 - o) for o in range(0, 11, 2)])
    assert [s.alpha for s in mfh.experiment_2()] == pytest.approx([v / (v + 10) for v in range(0, 41, 10)])
    assert [s.gamma for s in mfh.experiment_2()] == pytest.approx([10 / (v + 10) for v in range(0, 41, 10)])
    assert [s.gamma for s in mfh.table_2()] == pytest.approx([3 / 13, 1 / 3, 1 / 2, 2 / 3, 3 / 4])


def test_shared_columns_are_equal_and_labels_follow_the_rule(mfh: Any) -> None:
    setting = mfh.experiment_1()[3]  # columns 4 to 13 of 20 for the teacher, 0 to 9 for the student
    generator = torch.Generator().manual_seed(0)
    views = setting.draw(setting.rule(2, generator), 500, generator)
    assert views.teacher.shape == (2, 500, 25)
    assert views.student.shape == (2, 500, 50)
    both = np.corrcoef(views.teacher[0].T, views.student[0].T)[:25, 25:]
    assert {(i, j) for i, j in zip(*np.nonzero(both > 0.99), strict=True)} == {(i, i + 4) for i in range(6)}
    plain = mfh.table_2()[0]
    views = plain.draw(plain.rule(2, generator), 500, generator)
    assert torch.equal(views.label, (views.teacher[:, :, :13].sum(dim=2) > 0).long())


@pytest.mark.filterwarnings("ignore:reduction")
def test_the_batched_training_is_that_of_torch(mfh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear layer with two logits, CE plus `nn.KLDivLoss()`, plain SGD."""
    monkeypatch.setattr(mfh, "STEPS", 20)
    x, label, answers = torch.randn(30, 6), torch.randint(0, 2, (30,)), torch.randn(30)
    layer = torch.nn.Linear(6, 2)
    start = torch.cat([layer.weight.T, layer.bias[None]]).detach()
    gap = mfh.train((start[:, 1:] - start[:, :1])[None], x[None], label[None], answers[None])
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(20):
        sgd.zero_grad()
        z = layer(x)
        loss = torch.nn.CrossEntropyLoss()(z, label)
        (loss + torch.nn.KLDivLoss()(z.log_softmax(1), two(answers).softmax(1))).backward()
        sgd.step()
    found = torch.cat([layer.weight[1] - layer.weight[0], (layer.bias[1] - layer.bias[0])[None]])
    torch.testing.assert_close(gap[0, :, 0], found.detach(), rtol=1e-4, atol=1e-5)


def test_the_kept_results_are_of_enough_seeds() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "mfh.json").read_text())
    assert result["seeds"] >= 50
    assert result["verdict_spearman"]["all"] >= 0.9
    gains = [row["gain"]["mean"] for row in result["experiment_1"]]
    assert all(later > earlier for earlier, later in combinations(gains, 2))
    for difference in result["paired_differences"]["general - regular"].values():
        assert difference["mean"] > 2 * difference["se"]
