"""DANN and CDAN: their formulas in NumPy, their limits, and what they do to two shifted domains."""

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
    AdversarialLoss,
    ConditionalAdversarial,
    DomainAdversarial,
    domain_cross_entropy,
    entropy_weight,
    multilinear_map,
)
from lightning_distill.schedules import CosineRamp
from lightning_distill.structures import Batch, ModelOutput
from tests.builders import make_batch
from tests.verification import compared, gradchecked

Array = NDArray[np.float64]


def reference(source: Array, target: Array, v: Array | None = None, w: Array | None = None) -> float:
    """-(1/2) [weighted mean of log(1 - D) + weighted mean of log D], D the sigmoid of the odds."""
    v = np.ones(len(source)) if v is None else v
    w = np.ones(len(target)) if w is None else w
    of_source = np.sum(v / v.sum() * np.logaddexp(0, source))
    of_target = np.sum(w / w.sum() * np.logaddexp(0, -target))
    return float((of_source + of_target) / 2)


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def tensors(*arrays: Array) -> list[Tensor]:
    return [torch.tensor(a, requires_grad=True) for a in arrays]


def batch_of(target: list[bool], absent: list[int] | None = None) -> Batch:
    batch = make_batch(("image", "text"), len(target), {"image": absent or []})
    return {**batch, "in_target_domain": torch.tensor(target, dtype=torch.bool)}  # type: ignore[typeddict-item]


# -- the discriminator's loss -----------------------------------------------------------------------------


def test_cross_entropy_is_that_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    source, target = 5 * rng.normal(size=4), 5 * rng.normal(size=9)
    v, w = rng.uniform(1, 2, 4), rng.uniform(1, 2, 9)
    found = domain_cross_entropy(*tensors(source, target))
    compared(DomainAdversarial, found, reference(source, target), rtol=1e-13)
    weighted = domain_cross_entropy(*tensors(source, target, v, w))
    compared(ConditionalAdversarial, weighted, reference(source, target, v, w), rtol=1e-13)
    odds = tensors(source, target)
    gradchecked(DomainAdversarial, domain_cross_entropy, odds)


def test_sides_count_alike_whatever_their_numbers() -> None:
    source, target = torch.tensor([0.3, -1.0]), torch.tensor([2.0])
    value = domain_cross_entropy(source, target)
    torch.testing.assert_close(domain_cross_entropy(source, target.repeat(50)), value)
    torch.testing.assert_close(domain_cross_entropy(-target, -source), value)


def test_who_knows_nothing_pays_log_two_and_who_knows_all_nothing() -> None:
    assert domain_cross_entropy(torch.zeros(2), torch.zeros(7)).item() == pytest.approx(math.log(2))
    assert domain_cross_entropy(torch.full((2,), -1e4), torch.full((3,), 1e4)).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_huge_odds_have_finite_gradients(dtype: torch.dtype) -> None:
    source = torch.tensor([6e4, -6e4, 0.0], dtype=dtype, requires_grad=True)
    target = torch.tensor([6e4, -6e4], dtype=dtype, requires_grad=True)
    value = domain_cross_entropy(source, target)
    value.backward()
    assert value.dtype == dtype
    assert value.isfinite()
    assert source.grad is not None
    assert target.grad is not None
    assert source.grad.float().tolist() == pytest.approx([1 / 6, 0, 1 / 12], rel=1e-2)
    assert target.grad.float().tolist() == pytest.approx([0, -1 / 4], rel=1e-2)


# -- the multilinear map ----------------------------------------------------------------------------------


def test_map_is_the_outer_product() -> None:
    rng = np.random.default_rng(1)
    f, p = rng.normal(size=(5, 3)), softmax(rng.normal(size=(5, 4)))
    found = multilinear_map(torch.tensor(f), torch.tensor(p))
    expected = np.stack([np.outer(a, b).ravel() for a, b in zip(f, p, strict=True)])
    compared(ConditionalAdversarial, found, expected, rtol=1e-7)


def test_random_map_keeps_inner_products_on_average() -> None:
    """<T(f, p), T(g, q)> has the mean <f, g> <p, q>: found within four of its standard errors."""
    rng, d = np.random.default_rng(2), 200_000
    f, g = np.array([1.0, 0.5, -0.2]), np.array([0.8, 0.1, 0.4])
    p, q = np.array([0.7, 0.3]), np.array([0.4, 0.6])
    random = rng.normal(size=(3, d)), rng.normal(size=(2, d))
    h, k = multilinear_map(
        torch.tensor(np.stack([f, g])), torch.tensor(np.stack([p, q])), tuple(map(torch.tensor, random))
    ).numpy()
    expected, error = (f @ g) * (p @ q), (h * k * d).std() / math.sqrt(d)
    assert error < 0.05 * expected
    assert abs(h @ k - expected) < 4 * error
    np.testing.assert_allclose(h, (f @ random[0]) * (p @ random[1]) / math.sqrt(d))


def test_weight_goes_from_one_and_a_share_to_two() -> None:
    p = np.array([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4]])
    entropy = [-sum(x * math.log(x) for x in row if x) for row in p]
    found = entropy_weight(torch.tensor(p))
    compared(ConditionalAdversarial, found, 1 + np.exp(-np.array(entropy)), rtol=1e-7)
    assert found[0].item() == pytest.approx(1.25)


# -- the terms --------------------------------------------------------------------------------------------


def linear(term: AdversarialLoss, width: int, seed: int) -> tuple[Array, float]:
    """Weights of a discriminator without hidden layers."""
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=width), float(rng.normal())
    with torch.no_grad():
        term.double()
        term.discriminator[0].weight.copy_(torch.tensor(weight)[None])  # type: ignore[operator]
        term.discriminator[0].bias.fill_(bias)  # type: ignore[operator]
    return weight, bias


def test_domain_adversarial_is_its_formula() -> None:
    rng = np.random.default_rng(3)
    x, target = rng.normal(size=(6, 2, 3)), np.array([0, 1, 1, 0, 1, 1], bool)
    term = DomainAdversarial("layer", hidden=(), factor=0.4)
    term.adapt(((2, 3),), ())
    weight, bias = linear(term, 6, seed=0)
    layer = torch.tensor(x, requires_grad=True)
    value = term(ModelOutput(torch.zeros(6, 3), layers={"layer": layer}), None, batch_of(target.tolist()))
    odds = x.reshape(6, 6) @ weight + bias
    compared(DomainAdversarial, value, reference(odds[~target], odds[target]), rtol=1e-12)
    value.backward()
    d = 1 / (1 + np.exp(-odds))
    slope = np.where(target, -(1 - d) / 4, d / 2) / 2  # four target rows, two source rows
    assert layer.grad is not None
    compared(DomainAdversarial, layer.grad.flatten(1), -0.4 * slope[:, None] * weight, rtol=1e-10)
    gradient = term.discriminator[0].weight.grad
    compared(DomainAdversarial, gradient, (slope @ x.reshape(6, 6))[None], rtol=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_conditional_adversarial_is_its_formula(weighted: bool) -> None:
    rng = np.random.default_rng(4)
    f, z, target = rng.normal(size=(6, 3)), 2 * rng.normal(size=(6, 4)), np.array([0, 1, 1, 0, 1, 1], bool)
    term = ConditionalAdversarial(hidden=(), factor=1.0, entropy_weighted=weighted)
    term.adapt(((3,), (4,)), ())
    weight, bias = linear(term, 12, seed=1)
    embedding, logits = tensors(f, z)
    value = term(ModelOutput(logits, embedding), None, batch_of(target.tolist()))
    p = softmax(z)
    odds = np.einsum("bi,bj->bij", f, p).reshape(6, 12) @ weight + bias
    w = 1 + np.exp((p * np.log(p)).sum(axis=1)) if weighted else np.ones(6)
    expected = reference(odds[~target], odds[target], w[~target], w[target])
    compared(ConditionalAdversarial, value, expected, rtol=1e-6)
    value.backward()
    assert embedding.grad is not None
    assert embedding.grad.abs().sum() > 0
    assert logits.grad is None


@pytest.mark.parametrize(("dim", "classes", "random"), [(64, 64, False), (64, 65, True), (2048, 1000, True)])
def test_large_maps_are_read_at_random(dim: int, classes: int, random: bool) -> None:
    term = ConditionalAdversarial(hidden=(4,), factor=1.0, random_width=32)
    term.adapt(((dim,), (classes,)), ())
    assert term.discriminator[0].in_features == (32 if random else dim * classes)
    assert {"random_features", "random_classes"} <= set(term.state_dict()) or not random
    assert not any(name.startswith("random") for name, _ in term.named_parameters())
    twin = ConditionalAdversarial(hidden=(4,), factor=1.0, random_width=32)
    twin.load_state_dict(term.state_dict(), strict=True)
    output = ModelOutput(torch.randn(4, classes), torch.randn(4, dim))
    batch = batch_of([False, True, True, False])
    assert torch.equal(twin(output, None, batch), term(output, None, batch))


TERMS = pytest.mark.parametrize("cls", [DomainAdversarial, ConditionalAdversarial])


def made(cls: Any, layer: str = "embedding", **options: Any) -> AdversarialLoss:
    term: AdversarialLoss = cls(layer, **({"hidden": (5,), "factor": 1.0} | options))
    term.adapt(((8,), (4,))[: len(term.student_layers)], ())
    return term


def answer(size: int) -> ModelOutput:
    image = torch.randn(size, 8, requires_grad=True)
    return ModelOutput(torch.randn(size, 4), torch.randn(size, 8, requires_grad=True), {"image": image})


@TERMS
@pytest.mark.parametrize("target", [[True] * 3, [False], []])
def test_one_side_alone_is_nothing(cls: Any, target: list[bool]) -> None:
    """With a gradient of 0 for every parameter: DDP waits for all of them."""
    term, output = made(cls), answer(len(target))
    value = term(output, None, batch_of(target))
    value.backward()
    assert value.item() == 0.0
    assert output.embedding is not None
    for x in (output.embedding, *term.parameters()):
        assert x.grad is not None
        assert not x.grad.any()


@TERMS
def test_one_row_a_side_and_equal_rows_are_finite(cls: Any) -> None:
    term = made(cls)
    x = torch.ones(2, 8, requires_grad=True)
    value = term(ModelOutput(torch.zeros(2, 4), x), None, batch_of([False, True]))
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    # The same row on both sides pulls both ways, equally.
    assert x.grad.sum(dim=0).abs().max() <= x.grad.abs().max()


@TERMS
def test_rows_without_the_modality_do_not_count(cls: Any) -> None:
    term, output = made(cls, "features.image"), answer(6)
    target = [False, True, False, True, False, True]
    value = term(output, None, batch_of(target, absent=[4, 5]))
    expected = term(output.rows(torch.arange(4)), None, batch_of(target[:4]))
    torch.testing.assert_close(value, expected)


@TERMS
def test_factor_is_that_of_the_step_and_changes_only_the_student(cls: Any) -> None:
    term, output, batch = made(cls), answer(4), batch_of([False, True, True, False])
    term.factor = CosineRamp(0.25, 4.0, first=10, last=20)
    found = []
    for step in (10, 20):
        term.begin_step(step, epoch=0)
        value = term(output, None, batch)
        leaves = (output.embedding, *term.parameters())
        found.append((value, *torch.autograd.grad(value, leaves)))  # type: ignore[arg-type]
    early, late = found
    torch.testing.assert_close(late[1], 16 * early[1])
    for a, b in zip(early[2:], late[2:], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(early[0], late[0])


@TERMS
def test_by_default_the_student_is_left_alone_at_first(cls: Any) -> None:
    term, output = made(cls, factor=None), answer(4)
    term(output, None, batch_of([False, True, True, False])).backward()
    assert output.embedding is not None
    assert output.embedding.grad is not None
    assert not output.embedding.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in (term.discriminator[0].weight,))


@TERMS
def test_dropout_is_at_work_in_training_only(cls: Any) -> None:
    term, output, batch = made(cls, dropout=0.5, hidden=(64,)), answer(4), batch_of([False, True] * 2)
    assert not torch.equal(term(output, None, batch), term(output, None, batch))
    term.eval()
    assert torch.equal(term(output, None, batch), term(output, None, batch))


@TERMS
@pytest.mark.parametrize(
    "options", [{"hidden": (0,)}, {"dropout": 1.0}, {"dropout": -0.1}, {"factor": -1.0}, {"factor": math.nan}]
)
def test_settings_out_of_range(cls: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{cls.__name__}: found hidden"):
        cls(**options)


def test_random_width_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"ConditionalAdversarial\.random_width: found 0"):
        ConditionalAdversarial(random_width=0)


# -- learning ---------------------------------------------------------------------------------------------


def play(term: AdversarialLoss | None, steps: int = 250) -> tuple[float, float]:
    """Two classes along one axis, two domains along another: (task accuracy, domain accuracy) of features.

    The domain accuracy is that of the best linear probe on fresh samples, found in closed form.
    """
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(5)

    def sample(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        label, domain = torch.arange(rows) % 2, torch.arange(rows) // 2 % 2
        x = torch.randn(rows, 4, generator=draw)
        x[:, 0] += 4.0 * label
        x[:, 1] += 4.0 * domain
        return x, label, domain

    encoder, head = nn.Linear(4, 3), nn.Linear(3, 2)
    parts: list[nn.Module] = [encoder, head]
    if term is not None:
        term.adapt(((3,), (2,))[: len(term.student_layers)], ())
        parts.append(term)
    optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], lr=0.02)
    for _ in range(steps):
        x, label, domain = sample(64)
        features = encoder(x)
        known = domain == 0
        loss = nn.functional.cross_entropy(head(features)[known], label[known])
        if term is not None:
            loss = loss + term(ModelOutput(head(features), features), None, batch_of((domain == 1).tolist()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, label, domain = sample(2000)
    with torch.no_grad():
        features = encoder(x)
        task = (head(features).argmax(dim=1) == label)[domain == 1].float().mean()
        side = 2.0 * domain[:, None] - 1
        design = torch.cat([features, torch.ones(2000, 1)], dim=1).double()
        probe = torch.linalg.lstsq(design, side.double()).solution
        told = ((design @ probe) * side > 0).float().mean()
    return task.item(), told.item()


def test_two_domains_become_alike() -> None:
    """Less than a quarter is left of what a probe told above chance; the class is told in the target too."""
    _, before = play(None)
    assert before > 0.8
    for term in (
        DomainAdversarial(hidden=(16,), factor=1.0),
        ConditionalAdversarial(hidden=(16,), factor=1.0, entropy_weighted=True),
    ):
        task, told = play(term)
        assert told - 0.5 < (before - 0.5) / 4, term
        assert task > 0.9, term


def test_a_factor_of_zero_is_a_discriminator_that_only_looks() -> None:
    """The encoder trains as if the term were not there."""
    assert play(DomainAdversarial(hidden=(16,), factor=0.0), steps=60) == play(None, steps=60)
