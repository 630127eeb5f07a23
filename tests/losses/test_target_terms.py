"""Class confusion, entropy and information on the target domain, against the papers in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses import (
    EntropyMinimisation,
    InformationMaximisation,
    MinimumClassConfusion,
    OnTarget,
    class_confusion,
    entropy,
    information_maximisation,
)
from lightning_distill.structures import Batch, ModelOutput, Outputs
from tests.builders import make_batch
from tests.losses.logit_checks import HARD, SHAPES, Array, draw, kl, softmax
from tests.verification import SLOPES, compared, gradchecked, guards

TERMS: dict[str, Any] = {
    "confusion": (MinimumClassConfusion(), class_confusion),
    "entropy": (EntropyMinimisation(), entropy),
    "information": (InformationMaximisation(), information_maximisation),
}
EACH = pytest.mark.parametrize("name", TERMS)


def tensor(z: Array, grad: bool = False) -> Tensor:
    return torch.tensor(z, dtype=torch.float64, requires_grad=grad)


def value(name: str, z: Array) -> float:
    return float(TERMS[name][1](tensor(z)))


# -- references --------------------------------------------------------------------------------------------


def entropies(p: Array) -> Array:
    return -(p * np.log(p)).sum(axis=1)


def certainty(z: Array, temperature: float) -> Array:
    """The weights of rows, which sum to their number."""
    w = 1 + np.exp(-entropies(softmax(z / temperature)))
    return len(z) * w / w.sum()


def confusion_reference(z: Array, temperature: float, weight: Array) -> float:
    p = softmax(z / temperature)
    matrix = p.T @ np.diag(weight) @ p
    matrix = matrix / matrix.sum(axis=1, keepdims=True)
    return float((matrix.sum() - np.trace(matrix)) / z.shape[1])


def information_reference(z: Array) -> float:
    """Minus the mean divergence of each row from their mean."""
    p = softmax(z)
    return -sum(kl(row, p.mean(axis=0)) for row in p) / len(p)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_confusion_is_the_formula_of_the_paper(shape: tuple[int, int], temperature: float) -> None:
    z = draw(*shape)
    expected = confusion_reference(z, temperature, certainty(z, temperature))
    compared(MinimumClassConfusion, class_confusion(tensor(z), temperature), expected, rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_entropy_and_information_are_the_formulas_of_the_papers(shape: tuple[int, int]) -> None:
    z = draw(*shape)
    compared(EntropyMinimisation, value("entropy", z), entropies(softmax(z)).mean(), rtol=1e-10)
    expected = information_reference(z)
    compared(InformationMaximisation, value("information", z), expected, rtol=1e-10, atol=1e-12)


def test_gradient_of_confusion_is_that_of_constant_weights() -> None:
    z, temperature, step = draw(4, 3), 1.5, 1e-6
    leaf, weight = tensor(z, grad=True), certainty(z, temperature)
    class_confusion(leaf, temperature).backward()
    for at in np.ndindex(*z.shape):
        move = np.zeros_like(z)
        move[at] = step
        ends = [confusion_reference(z + sign * move, temperature, weight) for sign in (1, -1)]
        assert leaf.grad is not None
        slope = (ends[0] - ends[1]) / (2 * step)
        compared(MinimumClassConfusion, leaf.grad[at], slope, atol=1e-9, by=SLOPES)


@pytest.mark.parametrize(
    ("subject", "f"),
    [(EntropyMinimisation, entropy), (InformationMaximisation, information_maximisation)],
)
def test_gradcheck(subject: type, f: Any) -> None:
    gradchecked(subject, f, tensor(draw(4, 3), grad=True))


# -- limits and properties ---------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 5])
def test_known_answers(classes: int) -> None:
    sure, blank = 200 * np.eye(classes), np.zeros((6, classes))
    collapsed = sure[[0] * 4]
    assert value("confusion", sure) == pytest.approx(0, abs=1e-12)
    assert value("confusion", blank) == pytest.approx(1 - 1 / classes, rel=1e-12)
    assert value("entropy", sure) == value("entropy", collapsed) == pytest.approx(0, abs=1e-12)
    assert value("entropy", blank) == pytest.approx(math.log(classes), rel=1e-12)
    assert value("information", sure) == pytest.approx(-math.log(classes), rel=1e-12)
    assert value("information", blank) == pytest.approx(0, abs=1e-12)
    assert value("information", collapsed) == pytest.approx(0, abs=1e-12)


@guards(MinimumClassConfusion, "0 / 0 where no row takes a class for possible")
def test_a_class_that_no_row_takes_for_possible_is_no_division_by_0() -> None:
    """Its row of the matrix underflows to 0 / 0; in the limit all of it lies off the diagonal."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        z = torch.tensor([[1e3, 0.0, 0.0], [0.0, 1e3, 0.0]], dtype=dtype, requires_grad=True)
        found = class_confusion(z, temperature=1.0)
        found.backward()
        assert found.item() == pytest.approx(1 / 3, rel=4e-3)
        assert z.grad is not None
        assert z.grad.isfinite().all()


@EACH
def test_order_and_shift_do_not_matter(name: str) -> None:
    z = draw(6, 5)
    same, rng = pytest.approx(value(name, z), rel=1e-9), np.random.default_rng(1)
    assert value(name, rng.permutation(z)) == same
    assert value(name, rng.permutation(z, axis=1)) == same
    assert value(name, z + draw(6, 1, seed=2, scale=50.0)) == same


@EACH
@pytest.mark.parametrize("rows", [1, 4])
def test_rows_that_are_all_alike(name: str, rows: int) -> None:
    """They tell no classes apart, and so neither confusion nor information has a gradient."""
    z = tensor(np.repeat(draw(1, 5), rows, axis=0), grad=True)
    found = TERMS[name][1](z)
    found.backward()
    assert z.grad is not None
    if name == "entropy":
        assert z.grad.abs().max() > 1e-3
    elif name == "information":
        assert found.item() == pytest.approx(0, abs=1e-12)
        assert z.grad.abs().max() < 1e-12
    elif rows == 1:
        assert found.item() == pytest.approx(1 - 1 / 5, rel=1e-12)
        assert z.grad.abs().max() < 1e-12


@EACH
def test_no_row_gives_0(name: str) -> None:
    z = torch.zeros(0, 4, requires_grad=True)
    found = TERMS[name][1](z)
    found.backward()
    assert found == 0
    assert z.grad is not None


@EACH
@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_stays_finite_and_close_to_double_precision(name: str, case: str, dtype: torch.dtype) -> None:
    f = TERMS[name][1]
    z = torch.tensor(np.array(HARD[case][0]), dtype=dtype, requires_grad=True)
    exact = z.detach().double().requires_grad_()
    found, wanted = f(z), f(exact)
    found.backward()
    wanted.backward()
    rounding = 1e-4 if dtype == torch.float32 else 1e-2
    assert found.dtype == dtype
    assert found.item() == pytest.approx(wanted.item(), rel=rounding, abs=rounding)
    assert z.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(z.grad.double(), exact.grad, rtol=rounding, atol=rounding)


# -- terms -------------------------------------------------------------------------------------------------

TARGET = torch.tensor([True, False, True, True, False, True])


def batch_with(target: Tensor) -> Batch:
    return {**make_batch(size=len(target)), "in_target_domain": target}  # type: ignore[typeddict-item]


@EACH
def test_reads_the_rows_of_the_target_and_no_label(name: str) -> None:
    term, f = TERMS[name]
    z = torch.randn(6, 4, requires_grad=True)
    batch = batch_with(TARGET)
    del batch["target"]  # type: ignore[misc]
    found = term(ModelOutput(z), None, batch)
    found.backward()
    assert torch.equal(found, f(z[TARGET]))
    assert z.grad is not None
    assert (z.grad[~TARGET] == 0).all()
    assert (z.grad[TARGET].abs().amax(dim=1) > 0).all()
    assert torch.equal(OnTarget(term)(ModelOutput(z), None, batch_with(TARGET)), found)
    assert not term.needs_teacher
    assert term.suits == {Outputs.CLASSES}


@EACH
def test_without_target_rows_the_gradient_is_0(name: str) -> None:
    z = torch.randn(6, 4, requires_grad=True)
    found = TERMS[name][0](ModelOutput(z), None, batch_with(torch.zeros(6, dtype=torch.bool)))
    found.backward()
    assert found == 0
    assert z.grad is not None
    assert (z.grad == 0).all()


@EACH
def test_a_batch_of_one_kind_of_domain_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="CrossDomainDataModule"):
        TERMS[name][0](ModelOutput(torch.zeros(4, 3)), None, make_batch(size=4))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"MinimumClassConfusion\.temperature"):
        MinimumClassConfusion(temperature)


def test_settings_reach_the_function() -> None:
    z = torch.randn(6, 4)
    found = MinimumClassConfusion(0.7)(ModelOutput(z), None, batch_with(TARGET))
    assert torch.equal(found, class_confusion(z[TARGET], 0.7))
