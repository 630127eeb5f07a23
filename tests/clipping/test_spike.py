"""SPAM's spike-aware clip against a float64 reference, and its traps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from lightning_distill.clipping import SpikeClip
from lightning_distill.errors import CheckpointError, ConfigError
from lightning_distill.gradients import gradients_of
from tests.verification import compared, guards

Array = NDArray[np.float64]


def clipped(rule: SpikeClip, steps: Sequence[Array], dtype: torch.dtype = torch.float32) -> list[Array]:
    weight, found = nn.Parameter(torch.zeros(steps[0].shape, dtype=dtype)), []
    for step in steps:
        weight.grad = torch.from_numpy(step).to(dtype)
        rule.clip({"weight": weight})
        found.append(weight.grad.double().numpy())
    return found


def reference(steps: Sequence[Array], theta: float, decay: float, warmup: int) -> list[Array]:
    """The paper's clip on the second moment before the step, for entries that are never zero."""
    moment, found = np.zeros_like(steps[0]), []
    for t, grad in enumerate(steps):
        spikes = (grad**2 > theta * moment) & (t >= warmup)
        after = np.where(spikes, np.sign(grad) * np.sqrt(theta * moment), grad)
        moment = decay * moment + (1 - decay) * after**2
        found.append(after)
    return found


@pytest.mark.parametrize(("theta", "decay", "warmup"), [(5000.0, 0.999, 20), (50.0, 0.9, 1), (1.0, 0.5, 3)])
def test_equals_the_paper(theta: float, decay: float, warmup: int) -> None:
    rng = np.random.default_rng(0)
    steps = [rng.normal(size=(6, 5)) * np.where(rng.random((6, 5)) < 0.05, 1e3, 1) for _ in range(50)]
    expected = reference(steps, theta, decay, warmup)
    assert any((abs(e) < abs(s)).any() for e, s in zip(expected, steps, strict=True))
    for ours, theirs in zip(clipped(SpikeClip(theta, decay, warmup), steps), expected, strict=True):
        compared(SpikeClip, ours, theirs, rtol=2e-5, dtype=torch.float32)


@guards(SpikeClip, "writes into grad[mask], which is a copy, and so clips nothing")
def test_the_gradient_itself_is_edited() -> None:
    """A write into `grad[mask]` reaches a copy, and clips nothing."""
    after = clipped(SpikeClip(theta=5000, warmup=1), [np.ones(3), np.array([1.0, 1e6, -1e6])])[-1]
    bound = math.sqrt(5000 * 0.001)
    assert after == pytest.approx([1.0, bound, -bound], rel=1e-5)


def test_warm_up_passes_whole() -> None:
    steps = [np.array([1.0]), np.array([1e6]), np.array([1e9])]
    for ours, theirs in zip(clipped(SpikeClip(warmup=3), steps), steps, strict=True):
        assert ours == pytest.approx(theirs)


def test_an_entry_of_zeros_so_far_passes_once_and_is_bounded_then() -> None:
    """As the row of a rare word: the second moment is 0, and a bound of 0 would never let it rise."""
    steps = [np.array([1.0, 0.0])] * 4 + [np.array([1.0, 0.5]), np.array([1.0, 1e5])]
    after = clipped(SpikeClip(theta=5000, warmup=2), steps)
    assert after[4] == pytest.approx([1.0, 0.5])
    assert after[5][1] == pytest.approx(math.sqrt(5000 * 0.001) * 0.5, rel=1e-5)


def test_history_is_of_clipped_gradients() -> None:
    """Or one spike of 1e6 would let the next 1000 pass."""
    after = clipped(SpikeClip(theta=100, decay=0.99, warmup=5), [np.ones(1)] * 60 + [np.full(1, 1e6)] * 2)
    moment = 1 - 0.99**60
    assert after[60] == pytest.approx(math.sqrt(100 * moment), rel=1e-4)
    moment = 0.99 * moment + 0.01 * 100 * moment
    assert after[61] == pytest.approx(math.sqrt(100 * moment), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    after = clipped(SpikeClip(theta=25, decay=0.5, warmup=1), [np.ones(2), np.array([2.0, -64.0])], dtype)
    assert after[-1] == pytest.approx([2.0, -math.sqrt(12.5)], rel=1e-2)


def test_squares_beyond_float32_leave_a_finite_history() -> None:
    rule = SpikeClip(warmup=1)
    clipped(rule, [np.array([1.0, 1e30])] * 3)
    assert all(buffer.isfinite().all() for buffer in rule.buffers())


def test_strides_and_empty_tensors() -> None:
    rule, weights = SpikeClip(theta=25, decay=0.5, warmup=1), {n: nn.Parameter(torch.zeros(0)) for n in "ab"}
    weights["a"] = nn.Parameter(torch.zeros(3, 4))
    for size in (1.0, 100.0):
        weights["a"].grad, weights["b"].grad = torch.full((4, 3), size).t(), torch.zeros(0)
        rule.clip(weights)
    assert weights["a"].grad.numpy() == pytest.approx(np.full((3, 4), math.sqrt(12.5)))


def test_history_of_another_shape_is_refused() -> None:
    rule, twin = SpikeClip(), SpikeClip()
    clipped(rule, [np.ones((2, 3))])
    twin.load_state_dict(rule.state_dict())
    with pytest.raises(CheckpointError, match=r"for 'weight': found shape \(2, 3\); expected \(3, 2\)"):
        clipped(twin, [np.ones((3, 2))])


def test_a_checkpoint_of_one_process_s_pieces_is_refused() -> None:
    """Pieces may be as large as those of another process, and would be taken for them."""
    weight, rule, again = nn.Parameter(torch.zeros(4)), SpikeClip(), SpikeClip()
    weight.grad = torch.ones(4)
    rule.clip({"w": weight})
    again.load_state_dict(rule.state_dict())
    gradients = gradients_of({"w": weight}, split_over="a process group")
    with pytest.raises(CheckpointError, match=r"SpikeClip: found a checkpoint under FSDP1.*FSDP2"):
        again.edit(gradients)


@pytest.mark.parametrize(
    ("name", "value"),
    [("theta", 0.5), ("theta", math.inf), ("decay", 0.0), ("decay", 1.0), ("decay", math.nan), ("warmup", 0)],
)
def test_bad_arguments_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"SpikeClip\.{name}"):
        SpikeClip(**{name: value})
