"""What every feature clip must do, whichever file it is in."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping import (
    BoundaryClip,
    ElementwiseClip,
    FeatureClipChain,
    NormBallClip,
    TanhClip,
)
from lightning_distill.units import StandardDeviation
from tests.builders import same_bits
from tests.shelves import build, concrete

CLIPS = pytest.mark.parametrize("cls", concrete("feature_clipping"))
CUTTING = pytest.mark.parametrize("cls", [c for c in concrete("feature_clipping") if c is not TanhClip])
"""All but the one that bends what is inside too."""
RANGED = pytest.mark.parametrize(
    "cls", [c for c in concrete("feature_clipping") if issubclass(c, ElementwiseClip)]
)
EPSILON = 0.5
"""What `build` gives every range."""
NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])


@CLIPS
@DTYPES
@pytest.mark.parametrize("size", [1, 5])
def test_shape_dtype_and_gradient(cls: Any, dtype: torch.dtype, size: int) -> None:
    clip = build(cls).to(dtype)
    x = (2 * torch.randn(size, 6, dtype=dtype)).requires_grad_()
    y = clip(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@CLIPS
@pytest.mark.parametrize("measured", [False, True])
def test_tokens_are_rows_of_their_own(cls: Any, measured: bool) -> None:
    """Forward; a clip of gradients goes by the number of samples, which the test below has."""
    clip = build(cls).train()
    if measured and isinstance(clip, ElementwiseClip):
        clip.unit = StandardDeviation()
    x, mask = 2 * torch.randn(5, 3, 6), torch.rand(5, 3) < 0.6
    y, z = clip(x, mask), copy.deepcopy(clip)
    if measured and isinstance(z, ElementwiseClip):
        z.unit = StandardDeviation()
    assert torch.equal(y, z(x.flatten(0, 1), mask.flatten()).view_as(x))
    assert torch.equal(clip.saturated(x, mask).flatten(0, 1), z.saturated(x.flatten(0, 1), mask.flatten()))


def test_a_clip_of_gradients_goes_by_samples_however_many_tokens_they_have() -> None:
    clip, bounds = BoundaryClip(1.0), []
    for tokens in (1, 4):
        x = torch.zeros(5, tokens, 6, requires_grad=True)
        (1000 * clip(x, torch.ones(5, tokens, dtype=torch.bool))).sum().backward()
        assert x.grad is not None
        bounds.append(x.grad.unique().tolist())
    assert bounds == [[pytest.approx(0.2)], [pytest.approx(0.2)]]


@CLIPS
def test_never_enlarges_and_keeps_signs(cls: Any) -> None:
    x = 5 * torch.randn(20, 6)
    y = build(cls)(x)
    assert (y.abs() <= x.abs() + 1e-6).all()
    assert (x * y >= 0).all()


@CLIPS
@DTYPES
def test_saturated_share(cls: Any, dtype: torch.dtype) -> None:
    clip = build(cls).to(dtype)
    for scale in (1e-3, 1.0, 1e3):
        share = clip.saturated_share(scale * torch.randn(7, 6, dtype=dtype))
        assert share.shape == ()
        assert 0 <= share <= 1
    assert clip.saturated_share(torch.zeros(2, 6, dtype=dtype)) == 0


@CLIPS
def test_zeros_are_not_counted_as_free(cls: Any) -> None:
    """Of rows and entries that are 0 nothing can saturate; the rest is counted as if they were not there."""
    clip, x = build(cls), torch.full((6, 4), 9.0)
    x[:5] = 0.0
    x[5, 0] = 0.0
    assert clip.saturated_share(x) == float(clip.bounds_feature)
    x[5, 1] = 1e-6
    spared = 0.0 if cls is NormBallClip else 1 / 3
    torch.testing.assert_close(clip.saturated_share(x), torch.tensor(clip.bounds_feature * (1 - spared)))


@CLIPS
def test_nothing_to_count_is_a_share_of_zero(cls: Any) -> None:
    clip = build(cls)
    for x in (torch.zeros(0, 6), torch.zeros(3, 6), torch.zeros(3, 6, dtype=torch.bfloat16)):
        share = clip.saturated_share(x)
        assert share == 0
        assert share.dtype == torch.float32


@CLIPS
def test_tells_whether_it_bounds_the_feature(cls: Any) -> None:
    clip, x = build(cls), torch.full((2, 4), 1e3)
    assert clip.bounds_feature != torch.equal(clip(x), x)


@CLIPS
def test_saturated_share_compiles_as_one_graph(cls: Any) -> None:
    torch._dynamo.reset()
    clip, present = build(cls), torch.tensor([True, False, True, True])
    x = torch.randn(4, 6).masked_fill(~present[:, None], 0.0)
    compiled = torch.compile(clip.saturated_share, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, present), clip.saturated_share(x, present))


@CLIPS
def test_rows_do_not_see_each_other(cls: Any) -> None:
    clip, x = build(cls).eval(), 3 * torch.randn(5, 6)
    assert torch.equal(clip(x)[[3, 0]], clip(x[[3, 0]]))


@CLIPS
def test_state_dict_round_trip(cls: Any) -> None:
    clip, twin, x = build(cls), build(cls), 3 * torch.randn(5, 6)
    twin.load_state_dict(clip.state_dict(), strict=True)
    assert torch.equal(twin(x), clip(x))


@CLIPS
@given(rows=st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=4))
def test_never_enlarges_never_leaves_its_bound_and_is_odd(cls: Any, rows: list[list[float]]) -> None:
    clip, x = build(cls), torch.tensor(rows)
    y = clip(x)
    assert (y.abs() <= x.abs() * (1 + 1e-6)).all()
    assert torch.equal(clip(-x), -y)
    if cls is not BoundaryClip:
        assert (y.abs() <= EPSILON * (1 + 1e-6)).all()


@CUTTING
@given(
    rows=st.lists(
        st.lists(st.floats(-EPSILON / 2, EPSILON / 2, width=32), min_size=3, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_inside_stays_to_the_last_bit(cls: Any, rows: list[list[float]]) -> None:
    clip, x = build(cls), torch.tensor(rows, requires_grad=True)
    y = clip(x)
    weight = torch.linspace(0.01, 0.02, y.numel()).view_as(y)
    (y * weight).sum().backward()
    assert same_bits(y.detach(), x.detach())
    assert clip.saturated_share(x) == 0
    assert x.grad is not None
    assert torch.allclose(x.grad, weight, rtol=1e-6)


@CUTTING
@given(rows=st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=4))
def test_clipping_twice_is_clipping_once(cls: Any, rows: list[list[float]]) -> None:
    clip, x = build(cls), torch.tensor(rows)
    once = clip(x)
    if cls is NormBallClip:
        torch.testing.assert_close(clip(once), once, rtol=1e-6, atol=0)
    else:
        assert same_bits(clip(once), once)


@CLIPS
def test_nan_stays_nan_and_touches_no_other_row(cls: Any) -> None:
    clip, x = build(cls), torch.randn(3, 4)
    x[1, 2] = math.nan
    y = clip(x)
    assert y[1, 2].isnan()
    assert torch.equal(y[[0, 2]], clip(x[[0, 2]]))


@CLIPS
def test_zero_stays_zero_with_a_finite_gradient(cls: Any) -> None:
    x = torch.zeros(3, 4, requires_grad=True)
    y = build(cls)(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(3, 4))
    assert x.grad is not None
    assert x.grad.isfinite().all()


@CLIPS
def test_absent_rows_do_not_count_as_unsaturated(cls: Any) -> None:
    clip, x = build(cls), 3 * torch.randn(6, 4)
    present = torch.tensor([True, False, True, True, False, True])
    expected = clip.saturated_share(x[present])
    x = x.masked_fill(~present[:, None], 0.0)
    torch.testing.assert_close(clip.saturated_share(x, present), expected)
    assert clip.saturated_share(0 * x, present & False) == 0


@pytest.mark.parametrize(
    ("cls", "measured"),
    [(cls, False) for cls in concrete("feature_clipping")]
    + [(cls, True) for cls in concrete("feature_clipping") if issubclass(cls, ElementwiseClip)],
)
def test_compiles_as_one_graph(cls: Any, measured: bool) -> None:
    torch._dynamo.reset()
    clip, twin = (build(cls, **({"unit": StandardDeviation(0.5)} if measured else {})) for _ in range(2))
    present = torch.tensor([True, False, True, True])
    compiled = torch.compile(lambda x: clip(2 * x, present), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = torch.randn(4, 6).masked_fill(~present[:, None], 0.0)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        weight = torch.randn(4, 6)
        for given_x, function in ((a, compiled), (b, lambda x: twin(2 * x, present))):
            (function(given_x) * weight).sum().backward()
        torch.testing.assert_close(compiled(x), twin(2 * x, present))
        torch.testing.assert_close(a.grad, b.grad)
    for one, other in zip(clip.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@RANGED
def test_an_epsilon_in_units_follows_the_size_of_the_feature(cls: Any) -> None:
    """Clipping 1000 x with a unit is 1000 times clipping x, there and back."""
    results = []
    for scale in (1.0, 1000.0):
        clip, x = build(cls, unit=StandardDeviation(0.0)), torch.linspace(-2, 2, 24).view(4, 6)
        x = (scale * x).requires_grad_()
        y = clip(x)
        (y * torch.linspace(-3, 3, 24).view(4, 6)).sum().backward()
        assert x.grad is not None
        results.append((y.detach() / scale, x.grad, clip.saturated_share(x)))
    torch.testing.assert_close(results[0], results[1])


@RANGED
@pytest.mark.parametrize("epsilon", [0.0, -3.0, math.nan, math.inf])
def test_a_range_that_is_none_is_refused(cls: Any, epsilon: float) -> None:
    with pytest.raises(ConfigError, match=rf"{cls.__name__}\.epsilon"):
        cls(epsilon)


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(ConfigError, match="FeatureClipChain"):
        FeatureClipChain([])


@RANGED
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_unit_of_nothing_but_zeros_does_no_harm(cls: Any, dtype: torch.dtype) -> None:
    """The first batch may lack the modality altogether."""
    x = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
    y = build(cls, unit=StandardDeviation())(x, torch.zeros(3, dtype=torch.bool))
    y.sum().backward()
    assert torch.equal(y, torch.zeros_like(x))
    assert x.grad is not None
    assert x.grad.isfinite().all()
