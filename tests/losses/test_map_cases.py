"""Terms on layers where they were found to break: one sample, half precision, shapes that do not meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses import (
    AdaptedLoss,
    Hint,
    Overhaul,
    Review,
    VariationalInformation,
    hierarchical_context,
    hint,
    negative_mean,
    overhaul,
)
from lightning_distill.structures import ModelOutput
from lightning_distill.tokens import TokenGrid
from tests.builders import make_batch


def compared(term: AdaptedLoss, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
    rows = len(next(iter(student.values())))
    outputs = [ModelOutput(torch.zeros(rows, 4), layers=side) for side in (student, teacher)]
    names = zip(outputs, (term.student_layers, term.teacher_layers), strict=True)
    term.adapt(*(tuple(tuple(o.at(n).shape[1:]) for n in layers) for o, layers in names))  # type: ignore[arg-type]
    value: Tensor = term(*outputs, make_batch(size=rows))
    return value


@pytest.mark.parametrize("term", [lambda: Review(["a", "b"], ["a", "b"], 8), lambda: Overhaul(["b"], ["b"])])
def test_a_last_batch_of_one_has_no_variance_and_is_no_crash(term: Callable[[], Any]) -> None:
    """PyTorch's batch normalisation refuses one value a channel, as a pooled feature of one sample has."""
    loss = term()
    for rows in (4, 1):
        student = {"a": torch.randn(rows, 4, 4, 4), "b": torch.randn(rows, 6, 1, 1)}
        teacher = {"a": torch.randn(rows, 5, 4, 4), "b": torch.randn(rows, 7, 1, 1)}
        value = compared(loss, student, teacher)
        loss.zero_grad()
        value.backward()
        assert value.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    assert any(p.grad.abs().max() > 0 for p in loss.parameters())


def test_review_takes_a_vector_as_the_deepest_layer() -> None:
    vector = {"a": torch.randn(3, 4, 4, 4), "b": torch.randn(3, 6)}
    teacher = {"a": torch.randn(3, 5, 4, 4), "b": torch.randn(3, 7)}
    as_map = {**vector, "b": vector["b"][:, :, None, None]}
    loss = Review(["a", "b"], ["a", "b"], width=8)
    assert torch.equal(compared(loss, vector, teacher), compared(loss, as_map, teacher))


def test_review_takes_tokens() -> None:
    maps = {"a": torch.randn(3, 4, 4, 4), "b": torch.randn(3, 6, 2, 2)}
    tokens = {"t": torch.randn(3, 1 + 4 * 2, 5)}
    loss = Review(["a", "b"], ["t", "t"], width=8, teacher_grid=TokenGrid(4, 2))
    compared(loss, maps, tokens).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in loss.parameters())
    mirrored = Review(["t"], ["a"], width=8, student_grid=TokenGrid(4, 2))
    assert compared(mirrored, tokens, maps).isfinite()
    with pytest.raises(ConfigError, match="TokenGrid"):
        compared(Review(["t"], ["a"], width=8), tokens, maps)


def test_context_of_a_map_that_is_not_square() -> None:
    """8 x 3 is pooled to 2 x 2 and 1 x 1; 4 x 4 would be larger than the map."""
    s, t = torch.randn(2, 2, 5, 8, 3, dtype=torch.float64)
    means = [np.mean((s - t).numpy() ** 2)]
    rows, columns = [slice(0, 4), slice(4, 8)], [slice(0, 2), slice(1, 3)]
    cells = [(s - t).numpy()[:, :, r, c].mean(axis=(2, 3)) ** 2 for r in rows for c in columns]
    means += [np.mean(cells), np.mean((s - t).numpy().mean(axis=(2, 3)) ** 2)]
    expected = np.dot(means, [1, 1 / 2, 1 / 4]) / 1.75
    assert hierarchical_context(s, t).item() == pytest.approx(expected, rel=1e-12)


def test_the_margin_of_a_teacher_in_half_precision() -> None:
    """The sum of what is negative in a channel is beyond 65504, and minus infinity is no margin."""
    t = torch.randn(64, 2, 64, 64).half()
    margin = negative_mean(t)
    exact = np.array([x[x < 0].mean() for x in t.double().numpy().transpose(1, 0, 2, 3)])
    np.testing.assert_allclose(margin.double().numpy(), exact, rtol=1e-5)
    s = torch.randn(64, 2, 64, 64, requires_grad=True)
    overhaul(s, t, margin).backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()


@pytest.mark.parametrize("variance", [1.01e-5, 1.0, 30.0, 1e4])
def test_any_variance_may_be_the_first(variance: float) -> None:
    term = VariationalInformation(variance=variance)
    term.build(((4,),), ((3,),))
    found = torch.nn.functional.softplus(term.scale.detach().double()) + 1e-5
    np.testing.assert_allclose(found.numpy(), variance, rtol=1e-4)


def test_shapes_that_would_be_broadcast_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"shapes \(4, 1\) of the student and \(4, 8\) of the teacher"):
        hint(torch.randn(4, 1), torch.randn(4, 8))
    term = Hint("x", "x")
    compared(term, {"x": torch.randn(2, 5, 4)}, {"x": torch.randn(2, 5, 6)})
    with pytest.raises(ConfigError, match="pad every batch to one length"):
        compared(term, {"x": torch.randn(2, 5, 4)}, {"x": torch.randn(2, 7, 6)})
