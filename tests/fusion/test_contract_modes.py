"""What every fusion head must do in lower precision, compiled, without gradients, and copied."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from tests.fusion.heads import COUNTS, HEADS, draw, gone, leaves_of, make_head, masks, values_of

ROWS = [3, 5, 1, 15, 2, 6]
"""For each row, which modalities it has, as bits."""


@HEADS
@COUNTS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lower", [False, True])
def test_under_autocast(cls: Any, count: int, dtype: torch.dtype, lower: bool) -> None:
    """Features of either precision: close to the answer in float32, with gradients where there is something.

    Two hundredths are five roundings of bfloat16 (2^-8), one behind the other, for values of the size of x.
    """
    head = make_head(cls, count)
    present = masks(head, ROWS)
    features = leaves_of(draw(head, len(ROWS), dtype if lower else torch.float32))
    with torch.autocast("cpu", dtype):
        x = head(features, present)
    x.float().square().sum().backward()
    for modality, feature in features.items():
        grad = values_of(feature).grad
        assert grad is not None
        assert grad.isfinite().all()
        assert not grad[gone(feature, present[modality])].any()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    plain = head({m: _float(f) for m, f in features.items()}, present)
    assert (x.float() - plain).norm() <= 0.02 * plain.norm()


def _float(x: Any) -> Any:
    return x._replace(values=x.values.float()) if isinstance(x, tuple) else x.float()


@HEADS
@COUNTS
def test_without_gradients_it_does_the_same(cls: Any, count: int) -> None:
    """In evaluation PyTorch may take another way through its layers there."""
    head = make_head(cls, count).double().eval()
    features, present = draw(head, len(ROWS), torch.float64), masks(head, ROWS)
    with torch.no_grad():
        x = head(features, present)
    torch.testing.assert_close(x, head(features, present))


@HEADS
def test_it_compiles_as_one_graph(cls: Any) -> None:
    torch._dynamo.reset()
    head = make_head(cls, 2)
    features, present = draw(head, len(ROWS)), masks(head, ROWS)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, present), head(features, present))


@HEADS
@COUNTS
def test_copies_do_the_same(cls: Any, count: int) -> None:
    head = make_head(cls, count).eval()
    features, present = draw(head, len(ROWS)), masks(head, ROWS)
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin(features, present), head(features, present))
