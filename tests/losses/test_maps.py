"""Terms on feature maps, against the papers' formulas in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.losses import (
    AttentionTransfer,
    Hint,
    NeuronSelectivity,
    Overhaul,
    Review,
    VariationalInformation,
    attention_transfer,
    hierarchical_context,
    hint,
    negative_mean,
    neuron_selectivity,
    overhaul,
    variational_information,
)
from lightning_distill.structures import ModelOutput
from lightning_distill.tokens import TokenGrid
from tests.builders import make_batch
from tests.verification import compared, gradchecked, guards

Array = NDArray[np.float64]
BATCH = make_batch(size=3)


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def tensor(x: Array, grad: bool = False) -> Tensor:
    return torch.from_numpy(x).requires_grad_(grad)


def outputs(**layers: Tensor) -> ModelOutput:
    return ModelOutput(torch.zeros(3, 4), layers=layers)


def pool(x: Array, height: int, width: int) -> Array:
    """Adaptive average pooling, by its definition."""
    out = np.zeros((*x.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            rows = slice(i * x.shape[2] // height, -(-(i + 1) * x.shape[2] // height))
            cols = slice(j * x.shape[3] // width, -(-(j + 1) * x.shape[3] // width))
            out[:, :, i, j] = x[:, :, rows, cols].mean(axis=(2, 3))
    return out


# -- references --------------------------------------------------------------------------------------------


def hint_reference(s: Array, t: Array) -> float:
    return float(np.mean((s - t) ** 2))


def attention_reference(s: Array, t: Array) -> float:
    size = (min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3]))
    maps = []
    for x in (pool(s, *size), pool(t, *size)):
        a = np.stack([(sample**2).mean(axis=0).ravel() for sample in x])
        maps.append(np.stack([row / math.sqrt(sum(v * v for v in row)) for row in a]))
    return float(np.mean((maps[0] - maps[1]) ** 2))


def selectivity_reference(s: Array, t: Array) -> float:
    def kernel(x: Array, y: Array) -> float:
        return float(np.mean([[np.dot(a, b) ** 2 for b in y] for a in x]))

    total = 0.0
    for a, b in zip(s, t, strict=True):
        x, y = (np.stack([c.ravel() / np.linalg.norm(c) for c in sample]) for sample in (a, b))
        total += kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
    return total / len(s)


def overhaul_reference(s: Array, t: Array, margin: Array) -> float:
    total = 0.0
    for index, v in np.ndenumerate(s):
        aim = max(t[index], margin[index[1]])
        total += 0.0 if v <= aim <= 0 else (v - aim) ** 2
    return total / len(s)


def context_reference(s: Array, t: Array) -> float:
    parts, weights = [np.mean((s - t) ** 2)], [1.0]
    for side in (4, 2, 1):
        if side < min(s.shape[2:]):
            parts.append(np.mean((pool(s, side, side) - pool(t, side, side)) ** 2))
            weights.append(weights[-1] / 2)
    return float(np.dot(parts, weights) / sum(weights))


def information_reference(mean: Array, variance: Array, t: Array) -> float:
    """Minus the log-density of a normal, but for log(2 pi) / 2."""
    total = [
        (mean[i] - t[i]) ** 2 / (2 * variance[i[1]]) + math.log(math.sqrt(variance[i[1]]))
        for i in np.ndindex(*mean.shape)
    ]
    return float(np.mean(total))


MAPS = [((3, 4, 6, 6), (3, 4, 6, 6)), ((1, 2, 5, 3), (1, 2, 5, 3))]
UNLIKE = [*MAPS, ((3, 4, 8, 8), (3, 7, 4, 4)), ((2, 3, 4, 6), (2, 2, 8, 3))]


@pytest.mark.parametrize(("a", "b"), UNLIKE)
def test_attention_transfer_is_the_formula(a: Any, b: Any) -> None:
    s, t = draw(*a), draw(*b, seed=1)
    compared(
        AttentionTransfer, attention_transfer(tensor(s), tensor(t)), attention_reference(s, t), atol=1e-9
    )


@pytest.mark.parametrize("shape", [(3, 4, 3, 2), (2, 9, 2, 2), (1, 1, 1, 1), (2, 6, 3, 2)])
def test_neuron_selectivity_is_the_formula(shape: Any) -> None:
    s, t = draw(*shape), draw(shape[0], shape[1] + 2, *shape[2:], seed=1)
    value = neuron_selectivity(tensor(s), tensor(t)).item()
    compared(NeuronSelectivity, value, selectivity_reference(s, t), atol=1e-9)


@pytest.mark.parametrize(("a", "b"), MAPS)
def test_the_others_are_their_formulas(a: Any, b: Any) -> None:
    s, t = draw(*a), draw(*b, seed=1)
    margin, variance = -np.abs(draw(a[1], seed=2)), np.abs(draw(a[1], seed=3)) + 0.1
    compared(Hint, hint(tensor(s), tensor(t)), hint_reference(s, t), atol=1e-9)
    found = hierarchical_context(tensor(s), tensor(t)).item()
    compared(Review, found, context_reference(s, t), atol=1e-9)
    found = overhaul(tensor(s), tensor(t), tensor(margin)).item()
    compared(Overhaul, found, overhaul_reference(s, t, margin), atol=1e-9)
    found = variational_information(tensor(s), tensor(variance), tensor(t)).item()
    compared(VariationalInformation, found, information_reference(s, variance, t), atol=1e-9)


def test_margin_is_the_mean_of_what_is_negative() -> None:
    t = draw(3, 4, 5, 5)
    t[:, 2] = np.abs(t[:, 2])
    expected = [x[x < 0].mean() if (x < 0).any() else 0.0 for x in t.transpose(1, 0, 2, 3)]
    compared(Overhaul, negative_mean(tensor(t)), expected, rtol=1e-7, atol=1e-12)


FUNCTIONS: list[Any] = [
    hint,
    attention_transfer,
    neuron_selectivity,
    hierarchical_context,
    lambda s, t: overhaul(s, t, -torch.ones(s.shape[1], dtype=s.dtype)),
    lambda s, t: variational_information(s, 2 + torch.zeros(s.shape[1], dtype=s.dtype), t),
]
SUBJECTS = [Hint, AttentionTransfer, NeuronSelectivity, Review, Overhaul, VariationalInformation]
EACH = pytest.mark.parametrize("f", FUNCTIONS)


@EACH
def test_gradcheck(f: Any) -> None:
    s, t = tensor(draw(2, 3, 4, 4), grad=True), tensor(draw(2, 3, 4, 4, seed=1))
    gradchecked(SUBJECTS[FUNCTIONS.index(f)], lambda x: f(x, t), s)


def test_gradcheck_of_the_variance() -> None:
    s, t, v = tensor(draw(2, 3)), tensor(draw(2, 3, seed=1)), tensor(np.abs(draw(3)) + 0.3, grad=True)
    gradchecked(VariationalInformation, lambda x: variational_information(s, x, t), v)


@EACH
def test_order_of_rows_does_not_matter_and_the_teacher_gets_no_gradient(f: Any) -> None:
    s, t = tensor(draw(4, 3, 4, 4), grad=True), tensor(draw(4, 3, 4, 4, seed=1), grad=True)
    order = [2, 0, 3, 1]
    value = f(s, t)
    value.backward()
    assert f(s[order], t[order]).item() == pytest.approx(value.item(), abs=1e-12)
    assert t.grad is None


@pytest.mark.parametrize("f", FUNCTIONS[:4])
def test_is_zero_for_the_teacher_itself(f: Any) -> None:
    t = tensor(draw(3, 4, 6, 6))
    assert f(t, t).item() == pytest.approx(0, abs=1e-12)


def test_overhaul_is_zero_for_the_teacher_above_its_margin() -> None:
    t = tensor(draw(3, 4, 6, 6))
    assert overhaul(t.clamp(min=-0.5), t, torch.full((4,), -0.5)).item() == 0
    assert overhaul(t, t, torch.full((4,), -0.5)).item() == 0  # lower than asked for is forgiven


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fill", ["zero", "large", "same", "one row", "no row"])
def test_stays_finite(f: Any, dtype: torch.dtype, fill: str) -> None:
    s, t = torch.randn(4, 3, 4, 4), torch.randn(4, 3, 4, 4)
    if fill == "zero":
        s = s * 0
    if fill == "large":
        size = 2 if f is FUNCTIONS[4] else 20  # a sum over elements; 65504 is the largest number there is
        s, t = (size * s, -size * t) if dtype == torch.float16 else (1e3 * s, -1e3 * t)
    if fill == "same":
        s, t = s[:1].repeat(4, 1, 1, 1), t[:1].repeat(4, 1, 1, 1)
    rows = {"one row": 1, "no row": 0}.get(fill, 4)
    s = s[:rows].to(dtype).requires_grad_()
    value = f(s, t[:rows].to(dtype))
    value.backward()
    assert value.isfinite()
    assert value.dtype == dtype
    assert s.grad is not None
    assert s.grad.isfinite().all()


# -- modules ----------------------------------------------------------------------------------------------


def adapted(term: Any, student: ModelOutput, teacher: ModelOutput) -> Any:
    names = (student, term.student_layers), (teacher, term.teacher_layers)
    if hasattr(term, "adapt"):
        term.adapt(*(tuple(tuple(o.at(n).shape[1:]) for n in layers) for o, layers in names))
    return term.double()


def maps(channels: int, sides: tuple[int, ...], seed: int) -> ModelOutput:
    return outputs(**{f"l{i}": tensor(draw(3, channels, s, s, seed=seed + i)) for i, s in enumerate(sides)})


def test_modules_without_adaptors_are_sums_of_the_function() -> None:
    student, teacher = maps(4, (8, 4), 0), maps(6, (4, 4), 5)
    names = ["l0", "l1"]
    for cls, f in ((AttentionTransfer, attention_transfer), (NeuronSelectivity, neuron_selectivity)):
        expected = sum(f(student.at(n), teacher.at(n)).item() for n in names)
        term: Any = cls
        assert term(names, names)(student, teacher, BATCH).item() == pytest.approx(expected, abs=1e-12)


def test_hint_is_the_function_after_the_regressor() -> None:
    student, teacher = maps(4, (8,), 0), maps(6, (4,), 5)
    term = adapted(Hint("l0", "l0"), student, teacher)
    weight, bias = (p.detach().numpy() for p in term.regressor.parameters())
    mapped = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], pool(student.at("l0").numpy(), 4, 4))
    expected = hint_reference(mapped + bias[None, :, None, None], teacher.at("l0").numpy())
    compared(Hint, term(student, teacher, BATCH), expected, atol=1e-9)


def test_hint_takes_vectors_tokens_and_tokens_against_maps() -> None:
    vector, tokens, grid = torch.randn(3, 5), torch.randn(3, 17, 8), TokenGrid(4, 4)
    mapped = torch.randn(3, 6, 8, 8)
    for s, t, options in [
        (vector, torch.randn(3, 7), {}),
        (tokens, torch.randn(3, 17, 4), {}),
        (tokens, mapped, {"student_grid": grid}),
        (mapped, tokens, {"teacher_grid": grid}),
    ]:
        student, teacher = outputs(x=s.double()), outputs(x=t.double())
        term = adapted(Hint("x", "x", **options), student, teacher)
        assert term(student, teacher, BATCH).isfinite()
    with pytest.raises(ConfigError, match="student_grid and teacher_grid"):
        adapted(Hint("x", "x"), outputs(x=tokens), outputs(x=mapped))
    with pytest.raises(ConfigError, match="as many tokens"):
        adapted(Hint("x", "x"), outputs(x=tokens), outputs(x=tokens[:, 1:]))


def test_overhaul_weighs_deep_layers_more() -> None:
    student, teacher = maps(4, (4, 4, 4), 0), maps(4, (4, 4, 4), 5)
    term = adapted(Overhaul(["l0", "l1", "l2"], ["l0", "l1", "l2"]), student, teacher).eval()
    expected = 0.0
    for depth, connector in enumerate(term.connectors):
        t = teacher.at(f"l{depth}")
        with torch.no_grad():
            s = connector(student.at(f"l{depth}")).numpy()
        expected += overhaul_reference(s, t.numpy(), negative_mean(t).numpy()) / 2 ** (2 - depth)
    compared(Overhaul, term(student, teacher, BATCH), expected, rtol=1e-9)


@guards(
    VariationalInformation, "the variance in a plain list: in no optimizer, so that it stays where it began"
)
def test_variance_starts_where_it_is_told_and_is_learned() -> None:
    """Defect 9: log_scales in a plain list are in no optimizer, and the variance stays at 5."""
    student, teacher = maps(4, (4,), 0), maps(6, (4,), 5)
    term = adapted(VariationalInformation("l0", "l0", variance=5.0), student, teacher)
    names = dict(term.named_parameters())
    assert names["scale"].shape == (6,)
    assert "scale" in term.state_dict()
    variance = nn.functional.softplus(term.scale) + 1e-5
    np.testing.assert_allclose(variance.detach().numpy(), 5.0, rtol=1e-6)
    optimizer = torch.optim.SGD(term.parameters(), lr=10.0)
    for _ in range(50):
        optimizer.zero_grad()
        term(student, teacher, BATCH).backward()
        optimizer.step()
    assert (nn.functional.softplus(term.scale) < 4).all()


def test_review_fuses_from_deep_to_shallow() -> None:
    """A deep layer reaches the loss of a shallow one; the shallow one does not reach that of the deep."""
    student, teacher = maps(4, (8, 4), 0), maps(6, (8, 4), 5)
    term = adapted(Review(["l0", "l1"], ["l0", "l1"], width=8), student, teacher)
    shallow, deep = (student.at(n).requires_grad_() for n in ("l0", "l1"))
    out_deep, below = term.blocks[1](deep, None, (4, 4))
    out_shallow, _ = term.blocks[0](shallow, below, (8, 8))
    assert out_deep.shape == (3, 6, 4, 4)
    assert out_shallow.shape == (3, 6, 8, 8)
    assert torch.autograd.grad(out_deep.sum(), shallow, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(out_shallow.square().sum(), deep, retain_graph=True)[0].abs().max() > 0
    expected = hierarchical_context(out_deep, teacher.at("l1"))
    expected = expected + hierarchical_context(out_shallow, teacher.at("l0"))
    assert term(student, teacher, BATCH).item() == pytest.approx(expected.item(), rel=1e-6)


@guards(AttentionTransfer, "channels are not averaged, so that both sides must have as many")
def test_defect_6_attention_needs_no_equal_channels() -> None:
    assert attention_transfer(torch.rand(2, 3, 4, 4), torch.rand(2, 64, 4, 4)).isfinite()


@pytest.mark.parametrize("term", [Hint(), Overhaul(["l0"], ["l0"]), VariationalInformation("l0", "l0")])
def test_defect_13_every_adaptor_is_used(term: Any) -> None:
    """Critics that are stored, optimised and never asked."""
    student, teacher = maps(4, (4,), 0), maps(6, (4,), 5)
    both = [ModelOutput(o.logits, torch.randn(3, 8).double(), layers=o.layers) for o in (student, teacher)]
    adapted(term, *both)(*both, BATCH).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in term.parameters())


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"VariationalInformation\.variance"):
        VariationalInformation(variance=0.0)
    with pytest.raises(ConfigError, match=r"AttentionTransfer\.student, teacher: found 1 layers"):
        AttentionTransfer(["a"], [])
    with pytest.raises(ConfigError, match=r"Review\.width"):
        Review(["a"], ["a"], width=0)
    with pytest.raises(ConfigError, match="TokenGrid"):
        AttentionTransfer(["x"], ["x"])(outputs(x=torch.rand(3, 5, 4)), outputs(x=torch.rand(3, 5, 4)), BATCH)
