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
from lightning_distill.structures import Feature, Tokens
from tests.fusion.heads import (
    BATCH,
    COUNTS,
    DTYPES,
    HEADS,
    WIDTHS,
    Features,
    draw,
    everyone,
    gone,
    leaves_of,
    make,
    make_head,
    masks,
    rows_of,
    values_of,
    with_values,
)
from tests.shelves import build, concrete
from tests.verification import gradchecked


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
    features = leaves_of(draw(head, 16))
    present = masks(head, [i % 15 + 1 for i in range(16)])
    (head(features, present) * torch.randn(16, head.output_dim)).sum().backward()
    leaves = {m: values_of(x) for m, x in features.items()}
    for name, tensor in [*leaves.items(), *head.named_parameters()]:
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name


@HEADS
@COUNTS
def test_gradcheck(cls: Any, count: int) -> None:
    """Of a random mix of the outputs: one backward pass, not one for each of them."""
    head = make_head(cls, count).double()
    features = leaves_of(draw(head, 2, torch.float64))
    present = everyone(features)
    present[head.modalities[-1]][0] = count == 1
    weights = torch.randn(2, head.output_dim, dtype=torch.float64)

    def fuse(*values: Tensor) -> Tensor:
        given = {m: with_values(x, v) for (m, x), v in zip(features.items(), values, strict=True)}
        return (head(given, present) * weights).sum()

    gradchecked(cls, fuse, tuple(values_of(x) for x in features.values()))


ROWS = st.lists(st.sampled_from(range(1, 16)), min_size=BATCH, max_size=BATCH)
"""For each row, which of four modalities it has, as bits; never none."""
CONTENT = st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e38, -7.0, 0.0])


def run(
    head: FusionHead, features: Features, present: Mapping[str, Tensor], weights: Tensor
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Output, gradients of the features, gradients of the parameters."""
    leaves = leaves_of(features)
    head.zero_grad()
    torch.manual_seed(2)
    x = head(leaves, present)
    (x * weights).sum().backward()
    grads = {m: values_of(leaf).grad for m, leaf in leaves.items()}
    inputs = {m: g for m, g in grads.items() if g is not None}
    parameters = {n: p.grad.clone() for n, p in head.named_parameters() if p.grad is not None}
    return x.detach(), inputs, parameters


@HEADS
@COUNTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(training=st.booleans(), rows=ROWS, content=CONTENT)
def test_what_is_absent_cannot_matter(
    cls: Any, count: int, dtype: torch.dtype, training: bool, rows: list[int], content: float
) -> None:
    """Of features, and of tokens where there is padding: output, gradients, and exactly none of their own."""
    torch.manual_seed(1)
    head = make_head(cls, count).to(dtype).train(training)
    features, present = draw(head, dtype=dtype), masks(head, rows)
    other = {
        m: with_values(x, values_of(x).masked_fill(gone(x, present[m]), content)) for m, x in features.items()
    }
    weights = torch.randn(BATCH, head.output_dim, dtype=dtype)
    x, inputs, parameters = run(head, features, present, weights)
    y, other_inputs, other_parameters = run(head, other, present, weights)
    assert x.isfinite().all()
    assert torch.equal(x, y)
    assert set(inputs) == set(other_inputs) == set(head.modalities)
    for modality in head.modalities:
        for grads in (inputs, other_inputs):
            assert (grads[modality][gone(features[modality], present[modality])] == 0).all()
        assert torch.equal(inputs[modality], other_inputs[modality])
    # DDP waits for every parameter, also in a batch that lacks a modality.
    assert set(parameters) == {name for name, _ in head.named_parameters()}
    for name, grad in parameters.items():
        assert grad.isfinite().all(), name
        assert torch.equal(grad, other_parameters[name]), name


@HEADS
@COUNTS
@given(rows=ROWS, order=st.permutations(range(BATCH)))
def test_rows_do_not_see_each_other(cls: Any, count: int, rows: list[int], order: list[int]) -> None:
    torch.manual_seed(1)
    head = make_head(cls, count).double().eval()
    features, present = draw(head, dtype=torch.float64), masks(head, rows)
    x = head(features, present)
    moved = head(
        {m: rows_of(f, order) for m, f in features.items()}, {m: p[order] for m, p in present.items()}
    )
    torch.testing.assert_close(moved, x[order])
    alone = head({m: rows_of(f, [0]) for m, f in features.items()}, {m: p[:1] for m, p in present.items()})
    torch.testing.assert_close(alone, x[:1])


@HEADS
@given(rows=ROWS, order=st.permutations(list(WIDTHS)))
def test_order_of_the_modalities_does_not_matter(cls: Any, rows: list[int], order: list[str]) -> None:
    """Neither where the head is made, nor where it is called."""
    torch.manual_seed(1)
    head = make_head(cls, 4).eval()
    torch.manual_seed(1)
    twin = make(cls, {m: WIDTHS[m] for m in order}).eval()
    assert twin.modalities == head.modalities == tuple(sorted(WIDTHS))
    features, present = draw(head), masks(head, rows)
    moved = twin({m: features[m] for m in reversed(order)}, {m: present[m] for m in order})
    assert torch.equal(moved, head(features, present))
    twin.load_state_dict(make_head(cls, 4).state_dict())


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


TOKEN_HEADS = pytest.mark.parametrize("cls", [c for c in concrete("fusion") if c.reads_tokens])


@TOKEN_HEADS
def test_a_modality_without_a_token_is_absent(cls: Any) -> None:
    head = make_head(cls, 3).eval()
    features, present = draw(head), {m: torch.ones(BATCH, dtype=torch.bool) for m in head.modalities}
    text = features["text"]
    assert isinstance(text, Tokens)
    empty = features | {"text": Tokens(text.values, text.mask & (torch.arange(BATCH) != 1)[:, None])}
    absent = present | {"text": torch.arange(BATCH) != 1}
    assert torch.equal(head(empty, present), head(features, absent))
    everything = {m: Tokens(values_of(x), torch.zeros(x[1].shape).bool()) for m, x in features.items()}
    with pytest.raises(RuntimeError, match="no modality"):
        head(everything, present)


@TOKEN_HEADS
def test_padding_may_be_of_any_length(cls: Any) -> None:
    head = make_head(cls, 3).double().eval()
    features = draw(head, dtype=torch.float64)
    longer: dict[str, Feature] = {}
    for modality, x in features.items():
        assert isinstance(x, Tokens)
        pad = torch.full((BATCH, 3, x.values.shape[2]), 9.0, dtype=torch.float64)
        longer[modality] = Tokens(
            torch.cat([x.values, pad], dim=1), torch.cat([x.mask, torch.zeros(BATCH, 3).bool()], dim=1)
        )
    torch.testing.assert_close(head(longer, everyone(longer)), head(features, everyone(features)))


@HEADS
def test_the_other_kind_of_feature_names_the_option(cls: Any) -> None:
    head = make_head(cls, 2)
    features = draw(head)
    other = {
        m: x.mean() if isinstance(x, Tokens) else Tokens(x[:, None], torch.ones(BATCH, 1).bool())
        for m, x in features.items()
    }
    wanted = str(head.reads_tokens).lower()
    with pytest.raises(ConfigError, match=f"modality '{head.modalities[0]}'.*set `tokens: {wanted}`"):
        head(other, everyone(features))


@HEADS
@COUNTS
@pytest.mark.parametrize("what", ["feature", "presence"])
def test_a_missing_key_names_the_modality(cls: Any, count: int, what: str) -> None:
    head = make_head(cls, count)
    features = draw(head)
    present: dict[str, Any] = everyone(features)
    last = head.modalities[-1]
    (features if what == "feature" else present).pop(last)
    with pytest.raises(ConfigError, match=f"modality '{last}'.*a {what}"):
        head(features, present)


@HEADS
@COUNTS
def test_state_dict_round_trip(cls: Any, count: int) -> None:
    head, twin = make_head(cls, count).eval(), make_head(cls, count).eval()
    twin.load_state_dict(head.state_dict(), strict=True)
    features = draw(head)
    assert torch.equal(twin(features, everyone(features)), head(features, everyone(features)))


@HEADS
@COUNTS
def test_exported_it_does_the_same(cls: Any, count: int) -> None:
    """`torch.export` of the head, and absences it has not seen while it was traced."""
    head = make_head(cls, count).eval()
    features = draw(head)
    program = torch.export.export(head, (features, everyone(features)), strict=False).module()
    present = masks(head, [3, 5, 1, 15])
    torch.testing.assert_close(program(features, present), head(features, present))


@HEADS
def test_no_modality_is_refused(cls: Any) -> None:
    with pytest.raises(ConfigError):
        build(cls, {})


@HEADS
def test_a_width_of_zero_is_refused(cls: Any) -> None:
    with pytest.raises(ConfigError):
        build(cls, {"image": 0, "text": 3})
