"""A sample of large tensors, of any layout, stands for every entry."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_distill.telemetry.gradients import GradientTelemetry
from tests.telemetry.reference import clamp, large, layouts, observe, reference


def test_large_tensors_are_told_within_a_few_percent() -> None:
    telemetry, errors = GradientTelemetry(), []
    for step in range(20):
        expected = reference(large(step), clamp)
        found = observe(large(step), clamp, telemetry, step)
        errors.append([found[name] / value - 1 if value else found[name] for name, value in expected.items()])
    spread = dict(zip(expected, np.sqrt(np.mean(np.square(errors), axis=0)), strict=True))
    assert all(error < 0.1 for error in spread.values()), spread
    assert abs(np.mean(errors)) < 0.01


def test_over_the_steps_every_part_of_a_large_tensor_counts_alike() -> None:
    n = 128 * 128 * 40
    profile = torch.linspace(0, 2, n).square().view(-1, 128)
    mean = np.mean(
        [
            observe({"w": profile.clone()}, lambda g: g, step=step)["norm_before/other"] ** 2
            for step in range(233)
        ]
    )
    assert mean == pytest.approx(profile.double().square().sum().item(), rel=2e-3)


def test_a_pattern_that_fixed_blocks_would_miss_is_seen_over_the_steps() -> None:
    spiky = torch.zeros(4096, 256)
    spiky[5::97] = 1.0
    telemetry = GradientTelemetry()
    shares = [
        1 - observe({"w": spiky.clone()}, lambda g: g.mul_(1), telemetry, step)["zero_share/other"]
        for step in range(400)
    ]
    assert np.mean(shares) == pytest.approx((spiky != 0).float().mean().item(), rel=0.05)


def test_the_same_step_gives_the_same_sample() -> None:
    assert observe(large(), clamp, step=3) == observe(large(), clamp, step=3)
    assert observe(large(), clamp, step=3) != observe(large(), clamp, step=4)


def test_any_layout_is_read_from_where_it_lies() -> None:
    grads = layouts()
    expected = reference(grads, clamp)
    found = observe(grads, clamp)
    assert found == pytest.approx(expected, rel=0.05)


def test_small_tensors_of_any_layout_are_told_exactly() -> None:
    grads = {name: grad for name, grad in layouts().items() if 0 < grad.numel() <= 4096}
    grads["encoders.image.turned"] = torch.randn(30, 20).t()
    grads["encoders.image.wide"] = torch.randn(5, 7, 6).permute(2, 0, 1)[1:]
    expected = reference(grads, Tensor.sign_)
    assert observe(grads, Tensor.sign_) == pytest.approx(expected, rel=1e-6)


def test_a_transposed_weight_is_sampled_as_the_weight_itself() -> None:
    torch.manual_seed(4)
    weight = torch.randn(300, 200)
    assert observe({"w": weight.clone()}, clamp) == observe({"w": weight.clone().t()}, clamp)


def test_a_part_of_a_larger_memory_is_read_alone() -> None:
    """As gradients that are views of a bucket."""
    bucket = torch.zeros(3, 20_000)
    bucket[1] = 1.0
    found = observe({"a": bucket[1]}, lambda g: g.mul_(0.5))
    assert found["norm_before/other"] == pytest.approx(20_000**0.5)
    assert found["norm_after/other"] == pytest.approx(0.5 * 20_000**0.5)


def test_a_gradient_of_gaps_is_seen_after_it_was_edited() -> None:
    grads = {"a": torch.ones(80, 120)[:, ::2]}
    found = observe(grads, lambda g: g.mul_(0.5))
    assert found["norm_after/other"] == pytest.approx(0.5 * found["norm_before/other"])
    assert found["clipped_share/other"] == 1


def test_gradients_are_not_kept_alive() -> None:
    grads = large() | layouts()
    kept = [weakref.ref(grad) for grad in grads.values()]
    telemetry = GradientTelemetry()
    observe(grads, clamp, telemetry)
    del grads
    gc.collect()
    assert not any(ref() is not None for ref in kept)


def test_the_sample_leaves_gradients_as_they_are() -> None:
    grads = large() | layouts()
    copies = {name: grad.clone() for name, grad in grads.items()}
    observe(grads, lambda g: g)
    assert all(torch.equal(grads[name], copies[name]) for name in grads)
