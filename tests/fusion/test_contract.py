"""What every fusion head must do, whichever file it is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import FusionHead
from tests.shelves import build, concrete

HEADS = pytest.mark.parametrize("cls", concrete("fusion"))
COUNTS = pytest.mark.parametrize("count", [1, 2, 3])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
WIDTHS = {"image": 5, "text": 3, "audio": 4}
BATCH = 4

Features = Mapping[str, Tensor]


def make_head(cls: Any, count: int) -> FusionHead:
    return build(cls, dict(list(WIDTHS.items())[:count]))


def draw(head: FusionHead, size: int = BATCH, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {m: torch.randn(size, dim, dtype=dtype) for m, dim in head.feature_dims.items()}


def everyone(features: Features) -> dict[str, Tensor]:
    return {m: torch.ones(len(x), dtype=torch.bool) for m, x in features.items()}


@HEADS
@COUNTS
@DTYPES
@pytest.mark.parametrize("size", [1, BATCH])
def test_shape_dtype_and_finite(cls: Any, count: int, dtype: torch.dtype, size: int) -> None:
    head = make_head(cls, count).to(dtype)
    features = draw(head, size, dtype)
    x = head(features, everyone(features))
    assert x.shape == (size, head.output_dim)
    assert x.dtype == dtype
    assert x.isfinite().all()


@HEADS
@COUNTS
def test_gradients_reach_every_feature_and_parameter(cls: Any, count: int) -> None:
    head = make_head(cls, count)
    features = {m: x.requires_grad_() for m, x in draw(head).items()}
    (head(features, everyone(features)) * torch.randn(BATCH, head.output_dim)).sum().backward()
    for name, tensor in [*features.items(), *head.named_parameters()]:
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name


@HEADS
@COUNTS
def test_gradcheck(cls: Any, count: int) -> None:
    head = make_head(cls, count).double()
    features = {m: x.requires_grad_() for m, x in draw(head, 2, torch.float64).items()}
    present = everyone(features)
    present[head.modalities[-1]][0] = count == 1

    def fuse(*values: Tensor) -> Tensor:
        return head(dict(zip(features, values, strict=True)), present)

    assert torch.autograd.gradcheck(fuse, tuple(features.values()))


ROWS = st.lists(st.sampled_from(range(1, 8)), min_size=BATCH, max_size=BATCH)
"""For each row, which of three modalities it has, as bits; never none."""
CONTENT = st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e38, -7.0, 0.0])


def masks(head: FusionHead, rows: list[int]) -> dict[str, Tensor]:
    bits = torch.tensor(rows)
    found = {m: (bits >> i) % 2 == 1 for i, m in enumerate(head.modalities)}
    nobody = ~torch.stack(list(found.values())).any(dim=0)
    found[head.modalities[0]] |= nobody
    return found


def run(
    head: FusionHead, features: Features, present: Features, weights: Tensor
) -> tuple[Tensor, Features, Features]:
    """Output, gradients of the features, gradients of the parameters."""
    leaves = {m: x.clone().requires_grad_() for m, x in features.items()}
    head.zero_grad()
    x = head(leaves, present)
    (x * weights).sum().backward()
    inputs = {m: leaf.grad for m, leaf in leaves.items() if leaf.grad is not None}
    parameters = {n: p.grad.clone() for n, p in head.named_parameters() if p.grad is not None}
    return x.detach(), inputs, parameters


@HEADS
@COUNTS
@DTYPES
@pytest.mark.parametrize("training", [True, False])
@given(rows=ROWS, content=CONTENT)
def test_what_is_absent_cannot_matter(
    cls: Any, count: int, dtype: torch.dtype, training: bool, rows: list[int], content: float
) -> None:
    torch.manual_seed(1)
    head = make_head(cls, count).to(dtype).train(training)
    features, present = draw(head, dtype=dtype), masks(head, rows)
    other = {m: x.masked_fill(~present[m][:, None], content) for m, x in features.items()}
    weights = torch.randn(BATCH, head.output_dim, dtype=dtype)
    x, inputs, parameters = run(head, features, present, weights)
    y, other_inputs, other_parameters = run(head, other, present, weights)
    assert x.isfinite().all()
    assert torch.equal(x, y)
    for modality in head.modalities:
        for grads in (inputs, other_inputs):
            assert (grads[modality][~present[modality]] == 0).all()
        assert torch.equal(inputs[modality], other_inputs[modality])
    for name, grad in parameters.items():
        assert torch.equal(grad, other_parameters[name]), name
    with torch.no_grad():
        assert torch.equal(head(features, present), head(other, present))


@HEADS
@COUNTS
@given(rows=ROWS, order=st.permutations(range(BATCH)))
def test_rows_do_not_see_each_other(cls: Any, count: int, rows: list[int], order: list[int]) -> None:
    torch.manual_seed(1)
    head = make_head(cls, count).double().eval()
    features, present = draw(head, dtype=torch.float64), masks(head, rows)
    x = head(features, present)
    moved = head({m: f[order] for m, f in features.items()}, {m: p[order] for m, p in present.items()})
    torch.testing.assert_close(moved, x[order])
    alone = head({m: f[:1] for m, f in features.items()}, {m: p[:1] for m, p in present.items()})
    torch.testing.assert_close(alone, x[:1])


@HEADS
@pytest.mark.parametrize("count", [2, 3])
def test_presence_matters(cls: Any, count: int) -> None:
    """A head that ignored its mask would pass the tests above; one modality less must change x."""
    head = make_head(cls, count)
    features = draw(head)
    absent = everyone(features) | {"text": torch.zeros(BATCH, dtype=torch.bool)}
    assert not torch.allclose(head(features, absent), head(features, everyone(features)))


@HEADS
@COUNTS
def test_nothing_present_is_an_error(cls: Any, count: int) -> None:
    head = make_head(cls, count)
    features = draw(head)
    present = everyone(features)
    for mask in present.values():
        mask[2] = False
    with pytest.raises(RuntimeError, match="no modality"):
        head(features, present)


@HEADS
@COUNTS
@pytest.mark.parametrize("what", ["feature", "presence"])
def test_a_missing_key_names_the_modality(cls: Any, count: int, what: str) -> None:
    head = make_head(cls, count)
    features, last = draw(head), head.modalities[-1]
    present = everyone(features)
    (features if what == "feature" else present).pop(last)
    with pytest.raises(ConfigError, match=f"modality '{last}'.*a {what}"):
        head(features, present)


@HEADS
@COUNTS
def test_order_of_the_mapping_does_not_matter(cls: Any, count: int) -> None:
    head = make_head(cls, count)
    features = draw(head)
    backwards = dict(reversed(features.items()))
    assert torch.equal(head(backwards, everyone(backwards)), head(features, everyone(features)))


@HEADS
@COUNTS
def test_state_dict_round_trip(cls: Any, count: int) -> None:
    head, twin = make_head(cls, count), make_head(cls, count)
    twin.load_state_dict(head.state_dict(), strict=True)
    features = draw(head)
    assert torch.equal(twin(features, everyone(features)), head(features, everyone(features)))


@HEADS
def test_no_modality_is_refused(cls: Any) -> None:
    with pytest.raises(ConfigError):
        build(cls, {})
