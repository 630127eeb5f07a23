"""Rules without history on a GPU: the same as on the CPU, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_distill.clipping import (
    AdaptiveClip,
    BlockRMSClip,
    ClipChain,
    ClipRule,
    NormClip,
    PerModality,
    PerPattern,
    TensorNormClip,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

RULES: dict[str, Callable[[], ClipRule]] = {
    "norm": NormClip,
    "largest": lambda: NormClip(0.5, math.inf),
    "cubic": lambda: NormClip(0.5, 3.0),
    "tensor_norm": TensorNormClip,
    "block_rms": lambda: BlockRMSClip(0.5),
    "adaptive": lambda: AdaptiveClip(0.1),
    "chain": lambda: ClipChain([AdaptiveClip(), NormClip(0.1)]),
    "per_modality": lambda: PerModality({"a": NormClip(0.1)}, AdaptiveClip()),
    "per_pattern": lambda: PerPattern({"*.bias": NormClip(0.1)}, TensorNormClip(0.2)),
}
SHAPES = {
    "encoders.a.weight": (40, 3, 2, 2),
    "encoders.a.bias": (40,),
    "encoders.b.weight": (9, 7),
    "head.bias": (3,),
}


@pytest.mark.parametrize("size", [1e-3, 3.0, 1e20, math.inf])
@pytest.mark.parametrize("name", list(RULES))
def test_as_on_the_cpu(name: str, size: float) -> None:
    here, there = {}, {}
    for key, shape in SHAPES.items():
        here[key] = nn.Parameter(torch.randn(shape))
        grad = torch.randn(shape) * min(size, 3.0) * (size if 3 < size < math.inf else 1.0)
        grad.view(-1)[1] = size if key == "encoders.b.weight" else grad.view(-1)[1]
        here[key].grad = grad
        there[key] = nn.Parameter(here[key].detach().cuda())
        there[key].grad = grad.cuda()
    expected, rule = RULES[name]().clip(here), RULES[name]()
    torch.cuda.set_sync_debug_mode("error")
    try:
        report = rule.clip(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for key in SHAPES:
        ours, theirs = there[key].grad, here[key].grad
        assert ours is not None
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=0, equal_nan=True)
    assert report.values.keys() == expected.values.keys()
    for key, value in report.values.items():
        assert value.is_cuda
        torch.testing.assert_close(value.cpu(), expected.values[key], rtol=1e-4, atol=0, equal_nan=True)
