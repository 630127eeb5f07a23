"""Laws of rules that are made of rules, and of the one whose range follows a share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.clipping import (
    BlockRMSClip,
    ClipChain,
    ClipRule,
    NormClip,
    PerModality,
    PerPattern,
    PropagateNonFinite,
    RaiseNonFinite,
    SkipNonFinite,
    TargetFractionClip,
    TensorNormClip,
    ValueClip,
)
from tests.builders import same_bits

NAMES = ("encoders.a.weight", "encoders.b.weight", "head.bias")
ROUNDING = 1e-5
"""Norms and a multiplication in float32."""

STATELESS: dict[str, Callable[[float], ClipRule]] = {
    "chain": lambda e: ClipChain([ValueClip(e), NormClip(2 * e), TensorNormClip(e)]),
    "per modality": lambda e: PerModality({"a": NormClip(e), "b": ValueClip(e)}, BlockRMSClip(e)),
    "per pattern": lambda e: PerPattern({"*.bias": TensorNormClip(e), "encoders.*": NormClip(e)}),
    "skip": lambda e: SkipNonFinite(NormClip(e)),
    "propagate": lambda e: PropagateNonFinite(ClipChain([ValueClip(e), NormClip(e)])),
    "raise": lambda e: RaiseNonFinite(PerModality({"a": ValueClip(e)}, NormClip(e))),
}
BOUNDING: dict[str, Callable[[float], ClipRule]] = STATELESS | {
    "target fraction": lambda e: TargetFractionClip(share=min(0.9, e)),
}
FINITE = arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
EPSILON = st.floats(1e-3, 1e3)


def clipped(rule: ClipRule, values: Tensor) -> Tensor:
    weights = {name: nn.Parameter(torch.zeros(4)) for name in NAMES}
    for weight, row in zip(weights.values(), values, strict=True):
        weight.grad = row.clone()
    rule.clip(weights)
    return torch.stack([weight.grad for weight in weights.values() if weight.grad is not None])


@pytest.mark.row("G4")
@pytest.mark.parametrize("name", list(BOUNDING))
@given(values=FINITE, epsilon=EPSILON)
def test_norms_never_grow_and_what_is_finite_stays_so(
    name: str, values: NDArray[np.float32], epsilon: float
) -> None:
    g = torch.from_numpy(values)
    once = clipped(BOUNDING[name](epsilon), g)
    assert once.isfinite().all()
    assert (once.abs() <= g.abs()).all()
    assert ((once == 0) | (once.sign() == g.sign())).all()
    assert once.double().norm() <= g.double().norm()


@pytest.mark.parametrize("name", list(STATELESS))
@given(values=FINITE, epsilon=EPSILON)
def test_twice_is_once(name: str, values: NDArray[np.float32], epsilon: float) -> None:
    once = clipped(STATELESS[name](epsilon), torch.from_numpy(values))
    torch.testing.assert_close(clipped(STATELESS[name](epsilon), once), once, rtol=ROUNDING, atol=1e-44)


@pytest.mark.row("G4")
@pytest.mark.parametrize("name", list(STATELESS))
@given(values=FINITE)
def test_under_the_bound_every_bit_stays(name: str, values: NDArray[np.float32]) -> None:
    g = torch.from_numpy(values) / 3.5e38
    assert same_bits(clipped(STATELESS[name](100.0), g), g)
