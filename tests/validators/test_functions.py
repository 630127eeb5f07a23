"""Each formula in float64 NumPy, from the paper; and what each can and cannot tell apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.validators import (
    BatchNuclearNorm,
    MutualInformation,
    NegativeEntropy,
    SoftNeighbourhoodDensity,
    TeacherAgreement,
    batch_nuclear_norm,
    mutual_information,
    negative_entropy,
    soft_neighbourhood_density,
    teacher_agreement,
)
from lightning_distill.validators import density as density_module
from tests.verification import FORMULA, compared

Array = NDArray[np.float64]
ON_LOGITS = [negative_entropy, mutual_information, batch_nuclear_norm]
SUBJECTS = dict(zip(ON_LOGITS, (NegativeEntropy, MutualInformation, BatchNuclearNorm), strict=True))


def random_logits(rows: int = 30, classes: int = 5, scale: float = 2.0) -> Array:
    return scale * np.random.default_rng(4).normal(size=(rows, classes))


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def entropy(p: Array) -> float:
    return -sum(q * np.log(q) for q in p if q > 0)


def entropy_by_hand(z: Array) -> float:
    return -float(np.mean([entropy(p) for p in softmax(z)]))


def information_by_hand(z: Array) -> float:
    """KL of each answer from the mean answer, which is the same thing."""
    p = softmax(z)
    mean = p.mean(axis=0)
    return float(np.mean([np.sum(q * np.log(q / mean)) for q in p]))


def nuclear_norm_by_hand(z: Array) -> float:
    """Roots of the eigenvalues of P'P, or of PP' where that is smaller: the others are 0."""
    p = softmax(z)
    eigenvalues = np.linalg.eigvalsh(p.T @ p if len(p) >= p.shape[1] else p @ p.T)
    return float(np.sqrt(np.clip(eigenvalues, 0, None)).sum() / np.sqrt(len(p) * min(p.shape)))


def density_by_hand(f: Array, temperature: float) -> float:
    """Row by row."""
    f = f / np.linalg.norm(f, axis=1, keepdims=True)
    found = []
    for i in range(len(f)):
        others = np.delete(f, i, axis=0)
        found.append(entropy(softmax((others @ f[i] / temperature)[None])[0]))
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("ours", "by_hand"),
    [
        (negative_entropy, entropy_by_hand),
        (mutual_information, information_by_hand),
        (batch_nuclear_norm, nuclear_norm_by_hand),
    ],
)
@pytest.mark.parametrize("shape", [(30, 5), (3, 7), (1, 4)])
def test_formulas_on_logits(
    ours: Callable[[Tensor], Tensor], by_hand: Callable[[Array], float], shape: tuple[int, int]
) -> None:
    z = random_logits(*shape)
    compared(SUBJECTS[ours], ours(torch.from_numpy(z)), by_hand(z), rtol=1e-9, atol=1e-12)
    compared(SUBJECTS[ours], ours(torch.from_numpy(z + 17.0)), by_hand(z), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("block", [1, 7, 1024])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_density(block: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density_module, "_BLOCK", block)
    f = random_logits(24, 6)
    found = soft_neighbourhood_density(torch.from_numpy(f), temperature)
    compared(SoftNeighbourhoodDensity, found, density_by_hand(f, temperature), rtol=1e-9)


def test_density_does_not_hold_all_pairs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    entr = torch.special.entr

    def noted(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return entr(x)

    monkeypatch.setattr(torch.special, "entr", noted)
    soft_neighbourhood_density(torch.randn(3000, 2))
    assert sum(sizes) == 3000**2
    assert max(sizes) <= 1024 * 3000


def test_agreement() -> None:
    s, t = random_logits(40, 3), np.random.default_rng(5).normal(size=(40, 3))
    by_hand = np.mean([np.argmax(a) == np.argmax(b) for a, b in zip(s, t, strict=True)])
    assert 0.1 < by_hand < 0.9
    found = teacher_agreement(torch.from_numpy(s), torch.from_numpy(t))
    compared(TeacherAgreement, found, by_hand, rtol=1e-6, by=FORMULA)
    assert teacher_agreement(torch.from_numpy(s), torch.from_numpy(3 * s - 1)) == 1


def sure_of(classes: Tensor, count: int = 4) -> Tensor:
    return 30.0 * torch.nn.functional.one_hot(classes, count).double()


TRUE = torch.arange(40) % 4
PERFECT, COLLAPSED = sure_of(TRUE), sure_of(torch.zeros(40, dtype=torch.int64))
RANDOM = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("ours", [mutual_information, batch_nuclear_norm])
def test_perfect_beats_random_and_collapsed(ours: Callable[[Tensor], Tensor]) -> None:
    assert ours(PERFECT) > 1.5 * ours(RANDOM)
    assert ours(PERFECT) > 1.5 * ours(COLLAPSED)


def test_entropy_is_fooled_by_one_class_for_all() -> None:
    """What its docstring warns of."""
    assert negative_entropy(PERFECT) > negative_entropy(RANDOM) + 0.5
    assert negative_entropy(COLLAPSED) >= negative_entropy(PERFECT)


def test_density_prefers_groups_but_is_fooled_by_answers_that_are_all_alike() -> None:
    angles = torch.linspace(0, 2 * torch.pi, 41)[:40].double()
    scattered = torch.stack([angles.cos(), angles.sin()], dim=1)
    groups = torch.stack([TRUE < 2, TRUE >= 2], dim=1).double()
    assert soft_neighbourhood_density(groups) > 1.5 * soft_neighbourhood_density(scattered)
    most = float(np.log(39))
    for alike in (COLLAPSED, torch.zeros(40, 4)):  # sure, or not at all
        assert soft_neighbourhood_density(alike.softmax(dim=1)).item() == pytest.approx(most)
    assert soft_neighbourhood_density(PERFECT.softmax(dim=1)) < most


@pytest.mark.parametrize("ours", ON_LOGITS)
def test_nothing_tells_swapped_classes(ours: Callable[[Tensor], Tensor]) -> None:
    assert ours(sure_of((TRUE + 1) % 4)).item() == pytest.approx(ours(PERFECT).item(), abs=1e-9)


def test_known_values() -> None:
    log4, uniform = float(np.log(4)), torch.zeros(8, 4).double()
    assert mutual_information(PERFECT).item() == pytest.approx(log4, abs=1e-9)
    assert mutual_information(COLLAPSED).item() == pytest.approx(0, abs=1e-9)
    assert negative_entropy(uniform).item() == pytest.approx(-log4)
    assert batch_nuclear_norm(PERFECT).item() == pytest.approx(1)
    assert batch_nuclear_norm(COLLAPSED).item() == pytest.approx(1 / 2)
    assert batch_nuclear_norm(uniform).item() == pytest.approx(1 / 4)
    groups = soft_neighbourhood_density(PERFECT.softmax(dim=1), 0.01)
    assert groups.item() == pytest.approx(np.log(9))  # each of four groups has ten rows


@pytest.mark.parametrize("ours", [*ON_LOGITS, soft_neighbourhood_density])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_extremes_are_finite(ours: Callable[[Tensor], Tensor], kind: torch.dtype) -> None:
    impossible = torch.zeros(3, 3).masked_fill(~torch.eye(3, dtype=torch.bool), -torch.inf)
    for wide in (1e4 * torch.eye(5), torch.zeros(5, 3), impossible):
        logits = wide.to(kind)
        given = logits.float().softmax(dim=1).to(kind) if ours is soft_neighbourhood_density else logits
        assert ours(given).isfinite()
        assert ours(given).dtype == torch.float32
    assert ours(torch.zeros(0, 3, dtype=kind)) == 0


def test_low_precision_is_only_the_inputs() -> None:
    z = torch.from_numpy(random_logits(200, 5)).to(torch.bfloat16)
    for function in ON_LOGITS:
        assert function(z).item() == pytest.approx(function(z.double()).item(), rel=1e-5)


def test_one_row() -> None:
    one = torch.tensor([[1.0, 2.0, 0.5]])
    assert soft_neighbourhood_density(one) == 0
    assert mutual_information(one).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("ours", [*ON_LOGITS, soft_neighbourhood_density])
def test_the_order_of_the_rows_does_not_matter(ours: Callable[[Tensor], Tensor]) -> None:
    z = torch.from_numpy(random_logits())
    assert ours(z.flip(0)).item() == pytest.approx(ours(z).item(), rel=1e-12)
