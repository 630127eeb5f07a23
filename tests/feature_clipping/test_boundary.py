"""Nothing forward; backward a clip of each entry that knows batch size, loss scale and accumulation."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_distill.feature_clipping import BoundaryClip
from lightning_distill.units import Quantile, StandardDeviation, Unit
from tests.builders import same_bits
from tests.verification import FORMULA, compared

UNITS = pytest.mark.parametrize("unit", [StandardDeviation, Quantile])


def through(clip: BoundaryClip, grad: Tensor, present: Tensor | None = None) -> Tensor:
    """What becomes of a gradient."""
    x = torch.zeros_like(grad, requires_grad=True)
    clip(x, present).backward(grad)
    assert x.grad is not None
    return x.grad


@given(
    st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=5),
    st.floats(0.01, 200),
    st.floats(0.01, 200),
)
def test_equals_the_formula(rows: list[list[float]], epsilon: float, scale: float) -> None:
    g = np.array(rows)
    clip = BoundaryClip(epsilon)
    clip.gradient_scale = scale
    bound = epsilon * scale / len(g)
    found = through(clip, torch.from_numpy(g))
    compared(BoundaryClip, found, np.minimum(np.maximum(g, -bound), bound), rtol=1e-12, by=FORMULA)


def test_the_feature_is_left_as_it_is() -> None:
    x = torch.tensor([[0.0, -0.0, math.nan, math.inf, 1e-40, 3e38]])
    clip = BoundaryClip(0.1)
    assert same_bits(clip(x), x)
    assert clip.saturated_share(x) == 0


@pytest.mark.parametrize("scale", [4.0, torch.tensor(4.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_finite_passes_as_it_is(dtype: torch.dtype, scale: Any) -> None:
    clip = BoundaryClip(0.5)
    clip.gradient_scale = scale
    found = through(clip, torch.tensor([[math.inf, -math.inf, math.nan, 9.0, -0.25, -9.0]], dtype=dtype))
    expected = torch.tensor([[math.inf, -math.inf, math.nan, 2.0, -0.25, -2.0]], dtype=dtype)
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_finite_entries_whose_sum_overflows_are_clipped_all_the_same() -> None:
    found = through(BoundaryClip(0.5), torch.full((1, 4), 3e38))
    assert torch.equal(found, torch.full((1, 4), 0.5))


def test_a_grad_scaler_sees_the_overflow() -> None:
    """A plain clamp would turn it into a step that looks healthy."""
    for overflow, taken in ((1.0, True), (3e38, False)):
        layer = nn.Linear(3, 2)
        before = layer.weight.detach().clone()
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        clip = BoundaryClip(0.5)
        clip.gradient_scale = scaler.get_scale()
        scaler.scale((clip(layer(torch.ones(4, 3))) * overflow).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert (not torch.equal(layer.weight, before)) == taken
        assert scaler.get_scale() == (1024.0 if taken else 512.0)
        assert layer.weight.isfinite().all()


def encoder_gradient(clip: BoundaryClip, rows: Tensor, loss_scale: float = 1.0) -> Tensor:
    """Of a linear encoder, on the mean over the batch of a loss, scaled."""
    weight = torch.linspace(-1, 1, 12).view(3, 4).requires_grad_()
    samples = clip(rows @ weight).square().sum(dim=1)
    (samples.mean() * loss_scale).backward()
    assert weight.grad is not None
    return weight.grad


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_loss_scale_changes_nothing(as_tensor: bool) -> None:
    rows, clip = torch.randn(8, 3), BoundaryClip(0.7)
    plain = encoder_gradient(clip, rows)
    assert not torch.equal(plain, encoder_gradient(BoundaryClip(1e9), rows))
    clip.gradient_scale = torch.tensor(1024.0) if as_tensor else 1024.0
    assert torch.equal(encoder_gradient(clip, rows, 1024.0) / 1024.0, plain)


def test_the_batch_size_changes_nothing() -> None:
    rows = torch.randn(8, 3)
    torch.testing.assert_close(
        encoder_gradient(BoundaryClip(0.7), rows.repeat(3, 1)), encoder_gradient(BoundaryClip(0.7), rows)
    )


def test_accumulation_changes_nothing() -> None:
    rows, clip = torch.randn(8, 3), BoundaryClip(0.7)
    clip.gradient_scale = 1 / 2
    halves = [encoder_gradient(clip, half, 1 / 2) for half in rows.split(4)]
    torch.testing.assert_close(sum(halves), encoder_gradient(BoundaryClip(0.7), rows))


@UNITS
def test_with_a_unit_the_size_of_the_loss_changes_nothing(unit: type[Unit]) -> None:
    grad = torch.randn(8, 6)
    plain = through(BoundaryClip(0.8, unit()), grad)
    assert not torch.equal(plain, grad)
    torch.testing.assert_close(through(BoundaryClip(0.8, unit()), 1e4 * grad) / 1e4, plain)


def test_with_a_unit_the_bound_is_epsilon_deviations_of_the_gradient() -> None:
    grad = torch.randn(8, 6, dtype=torch.float64)
    bound = 0.8 * np.sqrt((grad.numpy() ** 2).mean())
    found = through(BoundaryClip(0.8, StandardDeviation()), grad).numpy()
    np.testing.assert_allclose(found, np.clip(grad.numpy(), -bound, bound), rtol=1e-6)


def test_a_history_outlives_a_change_of_the_loss_scale() -> None:
    grad, found = torch.randn(8, 6), []
    for scale in (1.0, 1024.0):
        clip = BoundaryClip(0.8, StandardDeviation(0.9))
        through(clip, grad)
        clip.gradient_scale = scale
        found.append((through(clip, 3 * scale * grad) / scale, clip.state_dict()))
    torch.testing.assert_close(found[0], found[1])


@UNITS
def test_history_follows_healthy_gradients_of_training_only(unit: type[Unit]) -> None:
    clip = BoundaryClip(1.0, unit())
    through(clip, torch.randn(4, 6))
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    sick, none = torch.randn(4, 6), torch.zeros(4, dtype=torch.bool)
    sick[1, 1] = math.inf
    assert through(clip, sick)[1, 1] == math.inf
    through(clip, torch.zeros(4, 6), none)
    through(clip.eval(), 50 * torch.randn(4, 6))
    x = torch.zeros(4, 6, requires_grad=True)
    clip.train()(x, fresh=False).backward(50 * torch.randn(4, 6))
    assert all(torch.equal(clip.state_dict()[name], tensor) for name, tensor in before.items())
    through(clip, 50 * torch.randn(4, 6))
    assert not all(torch.equal(clip.state_dict()[name], tensor) for name, tensor in before.items())


def test_absent_rows_are_not_measured() -> None:
    present, grad = torch.tensor([True, False, False, True]), torch.randn(4, 6)
    grad = grad.masked_fill(~present[:, None], 0.0)
    found = through(BoundaryClip(0.8, StandardDeviation()), grad, present)
    torch.testing.assert_close(found[present], through(BoundaryClip(0.8, StandardDeviation()), grad[present]))


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("epsilon", [1e-3, 1.0])
def test_bounds_the_gradient_of_the_encoder(batch: int, epsilon: float) -> None:
    """|dL/dtheta| <= |J| eps s sqrt(B d); J of W -> X W has the largest singular value of X as its norm."""
    rows, weight = torch.randn(batch, 5), torch.randn(5, 3, requires_grad=True)
    clip = BoundaryClip(epsilon)
    (1e4 * clip(rows @ weight)).square().mean().backward()
    assert weight.grad is not None
    bound = torch.linalg.matrix_norm(rows, 2) * epsilon / batch * math.sqrt(batch * 3)
    assert weight.grad.norm() <= bound * (1 + 1e-5)


# -- the share that is clipped ----------------------------------------------------------------------------


def watched(clip: BoundaryClip, grad: Tensor, present: Tensor | None = None) -> float:
    """The share that a backward pass leaves; the gradient must be as without watching."""
    unwatched = through(deepcopy(clip), grad, present)
    clip.clipped_share = torch.full((), math.nan)
    assert same_bits(through(clip, grad, present), unwatched)
    return clip.clipped_share.item()


@given(
    st.lists(st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.floats(0.01, 20),
)
def test_the_share_is_of_entries_other_than_zero_in_rows_that_are_there(
    rows: list[list[float]], there: list[bool], epsilon: float
) -> None:
    g, present = np.array(rows), np.array(there[: len(rows)])
    counted = (g != 0) & present[:, None]
    clipped = (np.abs(g) > epsilon * (1.0 / len(g))) & counted
    found = watched(BoundaryClip(epsilon), torch.from_numpy(g), torch.from_numpy(present))
    assert found == pytest.approx(clipped.sum() / max(counted.sum(), 1))


def test_the_share_follows_unit_and_scale() -> None:
    grad = torch.randn(8, 6, dtype=torch.float64)
    root = np.sqrt((grad.numpy() ** 2).mean())
    expected = (np.abs(grad.numpy()) > 0.8 * root).mean()
    assert 0 < expected < 1
    assert watched(BoundaryClip(0.8, StandardDeviation()), grad) == pytest.approx(expected)
    clip = BoundaryClip(0.8)
    clip.gradient_scale = 4.0
    assert watched(clip, grad) == pytest.approx((np.abs(grad.numpy()) > 0.8 * 4.0 / 8).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_finite_is_not_clipped(dtype: torch.dtype) -> None:
    grad = torch.tensor([[math.inf, -math.inf, math.nan, 9.0]], dtype=dtype)
    assert watched(BoundaryClip(1.0), grad) == 0.25


def test_nothing_to_clip_is_a_share_of_zero() -> None:
    assert watched(BoundaryClip(1.0), torch.zeros(2, 3)) == 0
    assert watched(BoundaryClip(1.0), torch.zeros(0, 3)) == 0
    assert watched(BoundaryClip(1e-3), torch.ones(2, 3), torch.zeros(2, dtype=torch.bool)) == 0


@pytest.mark.parametrize("unit", [None, StandardDeviation])
def test_of_several_backward_passes_the_last_is_told(unit: type[Unit] | None) -> None:
    clip, x = BoundaryClip(1.0, unit and unit(0.0)), torch.zeros(1, 4, requires_grad=True)
    clip.clipped_share = torch.zeros(())
    y = clip(x)
    for grad, share in (([9.0, 0.1, 0.1, 0.1], 0.25), ([0.0, 0.0, 0.0, 0.0], 0.0)):
        y.backward(torch.tensor([grad]), retain_graph=True)
        assert clip.clipped_share.item() == share


def test_a_share_is_no_part_of_the_state_and_may_be_left_out_again() -> None:
    clip = BoundaryClip(1.0)
    clip.clipped_share = share = torch.zeros(())
    assert clip.state_dict() == {}
    clip.clipped_share = None
    through(clip, torch.full((1, 3), 9.0))
    assert share == 0


@pytest.mark.parametrize("unit", [None, StandardDeviation])
def test_the_share_is_told_by_one_compiled_graph(unit: type[Unit] | None) -> None:
    torch._dynamo.reset()
    clip, present = BoundaryClip(1.0, unit and unit()), torch.tensor([True, False, True])
    twin = deepcopy(clip)
    compiled = torch.compile(lambda x: clip(2 * x, present), fullgraph=True, backend="aot_eager")
    for watching in (False, True, True, False, True):
        grad = 0.5 * torch.randn(3, 4)
        for part, function in ((clip, compiled), (twin, lambda x: twin(2 * x, present))):
            part.clipped_share = torch.zeros(()) if watching else None
            function(torch.zeros(3, 4, requires_grad=True)).backward(grad)
        if watching:
            assert clip.clipped_share is not None
            assert clip.clipped_share == twin.clipped_share
            assert 0 < clip.clipped_share < 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_share_is_not_waited_for() -> None:
    clip, x = BoundaryClip(1.0), torch.zeros(2, 4, device="cuda", requires_grad=True)
    clip.clipped_share, grad = torch.zeros((), device="cuda"), torch.full((2, 4), 9.0, device="cuda")
    present = torch.tensor([True, False], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        clip(x, present).backward(grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert clip.clipped_share == 1
