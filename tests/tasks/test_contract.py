"""What every task must do, whichever file it is in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_distill.errors import ConfigError
from tests.shelves import build, concrete
from tests.tasks.targets import fits, kinds, target_for, unknown

TASKS = pytest.mark.parametrize("cls", concrete("tasks"))


def test_every_kind_of_target_has_its_task() -> None:
    tasks = [build(cls) for cls in concrete("tasks")]
    assert all(any(fits(task, target, 3) for task in tasks) for target in kinds(5, 3))


@TASKS
def test_targets_of_another_kind_are_refused_with_the_task_that_fits(cls: Any) -> None:
    task = build(cls)
    others = [target for target in kinds(5, 3) if not fits(task, target, 3)]
    assert len(others) == 2
    for target in others:
        with pytest.raises(ConfigError) as caught:
            task.check(target, 3)
        named = [
            c for c in concrete("tasks") if f"lightning_distill.tasks.{c.__name__}}}" in caught.value.fix
        ]
        assert named
        assert fits(build(named[0]), target, 3)
        assert cls.__name__ in caught.value.where


@TASKS
@pytest.mark.parametrize("outputs", [2, 4])
def test_another_number_of_outputs_is_refused(cls: Any, outputs: int) -> None:
    """Where the target alone tells it; class indices do not."""
    task = build(cls)
    target = target_for(task)
    if target.ndim == 2:
        with pytest.raises(ConfigError, match=rf"\(5, 3\) and {outputs} outputs"):
            task.check(target, outputs)


@TASKS
def test_loss_is_a_finite_scalar_with_a_gradient(cls: Any) -> None:
    task = build(cls)
    target = target_for(task)
    target[2] = unknown(target)[2]
    logits = torch.randn(5, 3, requires_grad=True)
    value = task.loss(logits, target)
    value.backward()
    assert value.shape == ()
    assert value.isfinite()
    assert logits.grad is not None
    assert (logits.grad[[0, 1, 3, 4]].abs().amax(dim=1) > 0).all()
    assert (logits.grad[2] == 0).all()


@pytest.mark.row("G8")
@TASKS
@pytest.mark.parametrize("weighted", [True, False])
def test_nothing_known_is_0_with_a_gradient_of_0(cls: Any, weighted: bool) -> None:
    task = build(cls)
    logits = torch.randn(4, 3, requires_grad=True)
    value = task.loss(logits, unknown(target_for(task, 4)), torch.rand(4) if weighted else None)
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@TASKS
def test_weights_of_0_are_0_with_a_gradient_of_0(cls: Any) -> None:
    task = build(cls)
    logits = torch.randn(4, 3, requires_grad=True)
    value = task.loss(logits, target_for(task, 4), torch.zeros(4))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.row("G8")
@TASKS
def test_a_weight_counts_as_so_many_samples(cls: Any) -> None:
    task = build(cls)
    target, logits = target_for(task), torch.randn(5, 3, dtype=torch.float64)
    times = torch.tensor([0, 2, 1, 3, 1])
    expected = task.loss(logits.repeat_interleave(times, dim=0), target.repeat_interleave(times, dim=0))
    torch.testing.assert_close(task.loss(logits, target, times.float()), expected)
    torch.testing.assert_close(task.loss(logits, target, torch.full((5,), 7.0)), task.loss(logits, target))


@TASKS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_give_a_finite_loss_and_gradient(cls: Any, dtype: torch.dtype) -> None:
    task = build(cls)
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype=dtype, requires_grad=True)
    value = task.loss(logits, target_for(task, 2), torch.tensor([0.5, 2.0]))
    value.backward()
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@TASKS
def test_loss_gradcheck(cls: Any) -> None:
    task = build(cls)
    target = target_for(task, 4)
    target[1] = unknown(target)[1]
    weight = torch.tensor([0.5, 1.0, 2.0, 0.0])
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: task.loss(z, target, weight), logits)


@TASKS
@pytest.mark.parametrize("rows", [1, 8])
def test_metrics_are_finite_and_fresh_each_time(cls: Any, rows: int) -> None:
    task = build(cls)
    first, second = task.metrics(3), task.metrics(3)
    assert first is not second
    first.update(torch.randn(rows, 3), target_for(task, rows))
    assert all(value.isfinite() and value.shape == () for value in first.compute().values())
    assert not any(metric.update_called for metric in second.values())


@TASKS
def test_metrics_of_batches_are_those_of_the_whole(cls: Any) -> None:
    task = build(cls)
    logits, target = torch.randn(23, 3), target_for(task, 23)
    whole, parts = task.metrics(3), task.metrics(3)
    whole.update(logits, target)
    for z, t in zip(logits.split([8, 8, 1, 6]), target.split([8, 8, 1, 6]), strict=True):
        parts.update(z, t)
    expected = {name: value.item() for name, value in whole.compute().items()}
    assert {name: value.item() for name, value in parts.compute().items()} == pytest.approx(
        expected, rel=1e-5
    )


@TASKS
def test_agreement_is_best_with_oneself(cls: Any) -> None:
    task = build(cls)
    logits, other = torch.randn(40, 3), torch.randn(40, 3)
    equal, different = task.agreement(3), task.agreement(3)
    equal.update(logits, logits)
    different.update(logits, other)
    best = 0.0 if equal.higher_is_better is False else 1.0
    assert equal.compute().item() == best
    assert different.compute().item() != best
    assert task.agreement_name not in task.metrics(3)


@TASKS
def test_the_first_score_is_minus_the_loss_of_each_sample_alone(cls: Any) -> None:
    task = build(cls)
    logits, target = torch.randn(5, 3, dtype=torch.float64), target_for(task)
    target[2] = unknown(target)[2]
    if target.ndim == 2:
        target[3, 1] = unknown(target)[3, 1]
    alone = torch.stack([-task.loss(logits[i : i + 1], target[i : i + 1]) for i in range(5)])
    alone[2] = torch.nan
    first = next(iter(task.scores(logits, target).values()))
    torch.testing.assert_close(first, alone, equal_nan=True)


@TASKS
def test_the_first_score_has_the_mean_of_minus_the_loss(cls: Any) -> None:
    """Where samples have as many known entries as each other."""
    task = build(cls)
    logits, target = torch.randn(7, 3), target_for(task, 7)
    target[[1, 4]] = unknown(target)[[1, 4]]
    first = next(iter(task.scores(logits, target).values()))
    torch.testing.assert_close(first.nanmean(), -task.loss(logits, target))


@TASKS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_scores_are_one_number_a_sample_and_nan_where_nothing_is_known(cls: Any, dtype: torch.dtype) -> None:
    task = build(cls)
    logits, target = torch.randn(6, 3).to(dtype), target_for(task, 6)
    target[4] = unknown(target)[4]
    for name, score in task.scores(logits, target).items():
        assert score.shape == (6,)
        assert score.dtype == torch.promote_types(dtype, torch.float32)
        assert score.isnan().tolist() == [False] * 4 + [True, False]
        assert name != "accuracy" or bool((score[:4] >= 0).all() and (score[:4] <= 1).all())


@TASKS
def test_scores_are_larger_the_nearer_the_answer(cls: Any) -> None:
    task = build(cls)
    target = target_for(task)
    best = torch.nn.functional.one_hot(target, 3) if target.ndim == 1 else target
    right = best.float() if target.is_floating_point() else 8.0 * best - 4
    good, bad = task.scores(right, target), task.scores(1 - right, target)
    for name in good:
        assert bool((good[name] > bad[name]).all()), name


@TASKS
@pytest.mark.parametrize("seed", range(4))
def test_no_constant_answer_has_a_lower_loss(cls: Any, seed: int) -> None:
    """The loss is convex, so it is enough to look around."""
    torch.manual_seed(seed)
    task = build(cls)
    target = target_for(task, 17)
    target[3] = unknown(target)[3]
    if target.ndim == 2:
        target[5:9, 1] = unknown(target)[5:9, 1]
    best = task.constant_logits(target, 3)
    assert best.shape == (3,)
    assert best.dtype == torch.float64
    least = task.loss(best.expand(17, -1), target)
    for _ in range(20):
        other = best + 0.1 * torch.randn(3, dtype=torch.float64)
        assert task.loss(other.expand(17, -1), target) >= least


@TASKS
def test_L3_constant_answer_to_targets_that_are_not_known(cls: Any) -> None:
    task = build(cls)
    for target in (unknown(target_for(task)), target_for(task)[:0]):
        answer = task.constant_logits(target, 3)
        assert answer.isfinite().all()
        assert (answer == answer[0]).all()


@TASKS
def test_prediction_and_probabilities(cls: Any) -> None:
    said = build(cls).predict(torch.randn(6, 3))
    assert {"prediction"} <= set(said) <= {"prediction", "probabilities"}
    assert said["prediction"].shape[0] == 6
    if "probabilities" in said:
        assert said["probabilities"].shape == (6, 3)
        assert ((said["probabilities"] >= 0) & (said["probabilities"] <= 1)).all()
