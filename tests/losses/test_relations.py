"""Relations between samples, and contrasts, against the papers' formulas in NumPy loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses import (
    CKA,
    RKD,
    ContrastiveRepresentation,
    CrossModalContrastive,
    ModalityGeneralHint,
    ProbabilisticTransfer,
    SimilarityPreserving,
    contrastive_alignment,
    contrastive_representation,
    linear_cka,
    masked_hint,
    modality_general_saliency,
    probabilistic_transfer,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from lightning_distill.structures import ModelOutput
from tests.builders import make_batch
from tests.verification import compared, gradchecked, guards

Array = NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def tensor(x: Array, grad: bool = False) -> Tensor:
    return torch.from_numpy(x).requires_grad_(grad)


# -- references --------------------------------------------------------------------------------------------


def huber(a: float) -> float:
    return a * a / 2 if abs(a) < 1 else abs(a) - 0.5


def distance_reference(s: Array, t: Array) -> float:
    sides = []
    for x in (s, t):
        d = np.array([[math.dist(a, b) for b in x] for a in x])
        sides.append(d / d[d > 0].mean())
    return float(np.mean([huber(a) for a in (sides[0] - sides[1]).ravel()]))


def angle_reference(s: Array, t: Array) -> float:
    def cosine(x: Array, i: int, j: int, k: int) -> float:
        a, b = x[i] - x[j], x[k] - x[j]
        size = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / size) if size > 0 else 0.0

    n = range(len(s))
    return float(np.mean([huber(cosine(s, i, j, k) - cosine(t, i, j, k)) for i in n for j in n for k in n]))


def similarity_reference(s: Array, t: Array) -> float:
    sides = []
    for x in (s, t):
        g = x @ x.T
        sides.append(np.stack([row / math.sqrt((row**2).sum()) for row in g]))
    return float(((sides[0] - sides[1]) ** 2).sum() / len(s) ** 2)


def probabilistic_reference(s: Array, t: Array) -> float:
    sides = []
    for x in (s, t):
        unit = np.stack([row / np.linalg.norm(row) for row in x])
        near = (unit @ unit.T + 1) / 2
        sides.append(near / near.sum(axis=1, keepdims=True))
    q, p = sides
    return float(np.mean(p * np.log((p + 1e-7) / (q + 1e-7))))


def cka_reference(s: Array, t: Array) -> float:
    """From the definition of the unbiased estimator, on features that are not centred."""

    def hsic(x: Array, y: Array) -> float:
        n = len(x)
        k, m = x @ x.T, y @ y.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        one = np.ones(n)
        value = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return float(value - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    return hsic(s, t) / math.sqrt(hsic(s, s) * hsic(t, t))


def alignment_reference(s: Array, t: Array, ids: list[int], temperature: float) -> float:
    total = 0.0
    for x, y in ((s, t), (t, s)):
        for i in range(len(x)):
            scores = {
                j: math.exp(x[i] @ y[j] / np.linalg.norm(x[i]) / np.linalg.norm(y[j]) / temperature)
                for j in range(len(y))
                if j == i or ids[j] != ids[i]
            }
            total -= math.log(scores[i] / sum(scores.values()))
    return total / 2 / len(s)


def representation_reference(p: Array, n: Array, allowed: Any, ratio: float) -> float:
    total = 0.0
    for i in range(len(p)):
        total -= math.log(math.exp(p[i]) / (math.exp(p[i]) + ratio))
        for k in range(n.shape[1]):
            if allowed[i, k]:
                total -= math.log(1 - math.exp(n[i, k]) / (math.exp(n[i, k]) + ratio))
    return total / len(p)


REFERENCES: dict[str, Any] = {
    "distance": (rkd_distance, distance_reference),
    "angle": (rkd_angle, angle_reference),
    "similarity": (similarity_preserving, similarity_reference),
    "probabilistic": (probabilistic_transfer, probabilistic_reference),
    "cka": (linear_cka, cka_reference),
}
SUBJECTS: dict[str, type] = {
    "distance": RKD,
    "angle": RKD,
    "similarity": SimilarityPreserving,
    "probabilistic": ProbabilisticTransfer,
    "cka": CKA,
}
EACH = pytest.mark.parametrize("name", REFERENCES)


@EACH
@pytest.mark.parametrize(("rows", "width"), [(9, 3), (5, 12), (4, 1), (12, 40)])
def test_is_the_formula_of_the_paper(name: str, rows: int, width: int) -> None:
    f, reference = REFERENCES[name]
    s, t = draw(rows, width), draw(rows, width + 2, seed=1)
    compared(SUBJECTS[name], f(tensor(s), tensor(t)), reference(s, t), atol=1e-9)


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4], [0, 1, 0, 0, 4]])
def test_alignment_is_the_formula_of_the_paper(ids: list[int]) -> None:
    s, t = draw(5, 6), draw(5, 6, seed=1)
    found = contrastive_alignment(tensor(s), tensor(t), torch.tensor(ids), 0.3)
    compared(CrossModalContrastive, found, alignment_reference(s, t, ids, 0.3), atol=1e-9)


def test_representation_is_the_formula_of_the_paper() -> None:
    p, n, allowed = draw(4), draw(4, 7, seed=1), draw(4, 7, seed=2) > -0.5
    found = contrastive_representation(tensor(p), tensor(n), torch.from_numpy(allowed), 0.25)
    expected = representation_reference(p, n, allowed, 0.25)
    compared(ContrastiveRepresentation, found, expected, atol=1e-9)


def test_masked_hint_follows_what_is_general() -> None:
    s, t, w = draw(4, 3), draw(4, 3, seed=1), np.array([1.0, 0.0, 2.0])
    expected = np.mean(np.sum(w * (s - t) ** 2, axis=1)) / w.sum()
    compared(ModalityGeneralHint, masked_hint(tensor(s), tensor(t), tensor(w)), expected, atol=1e-9)


def test_saliency_finds_what_moves_the_output() -> None:
    """For a linear output, a permuted channel moves it by |w_d| times the mean difference of two draws."""
    x, w = tensor(draw(4000, 4)), tensor(np.array([[2.0], [-1.0], [0.0], [0.5]]))
    found = modality_general_saliency(lambda x: x @ w, x, 3, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(found.numpy(), [1.0, 0.5, 0.0, 0.25], atol=0.03)


# -- properties --------------------------------------------------------------------------------------------


@EACH
def test_gradcheck(name: str) -> None:
    f, _ = REFERENCES[name]
    s, t = tensor(draw(6, 4), grad=True), tensor(draw(6, 3, seed=1))
    gradchecked(SUBJECTS[name], lambda x: f(x, t), s)


def test_gradcheck_of_the_contrasts() -> None:
    s, t = tensor(draw(4, 3), grad=True), tensor(draw(4, 3, seed=1), grad=True)
    ids, allowed = torch.arange(4), torch.ones(4, 3, dtype=torch.bool)
    gradchecked(CrossModalContrastive, lambda x, y: contrastive_alignment(x, y, ids, 0.5), (s, t))
    contrast = lambda x, y: contrastive_representation(x[:, 0], y, allowed, 0.5)  # noqa: E731
    gradchecked(ContrastiveRepresentation, contrast, (s, t))
    gradchecked(ModalityGeneralHint, lambda x: masked_hint(x, t, torch.ones(3).double()), s)


@EACH
def test_invariances(name: str) -> None:
    """Rows in another order, features turned, and (where the formula says so) moved or stretched."""
    f, _ = REFERENCES[name]
    s, t = tensor(draw(8, 5)), tensor(draw(8, 3, seed=1))
    same, order = pytest.approx(f(s, t).item(), abs=1e-9), torch.randperm(8)
    turn = torch.linalg.qr(tensor(draw(5, 5, seed=3)))[0]
    assert f(s[order], t[order]).item() == same
    assert f(s @ turn, t).item() == same
    assert f(3 * s, t).item() == same
    if name in ("distance", "angle", "cka"):
        assert f(s + 2, t - 1).item() == same


@EACH
def test_the_teacher_itself_and_its_gradient(name: str) -> None:
    f, _ = REFERENCES[name]
    s, t = tensor(draw(8, 5), grad=True), tensor(draw(8, 5), grad=True)
    value = f(s, t)
    value.backward()
    assert value.item() == pytest.approx(1.0 if name == "cka" else 0.0, abs=1e-9)
    assert t.grad is None


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["constant", "zero", "large", "small", "duplicates", "one", "none", "two"])
def test_stays_finite(name: str, dtype: torch.dtype, case: str) -> None:
    f, _ = REFERENCES[name]
    s, t = torch.randn(8, 4), torch.randn(8, 6)
    if case == "duplicates":
        s[3] = s[5]
        t[2] = t[5]
    s = {"constant": torch.ones(8, 4), "zero": s * 0, "large": 1e3 * s, "small": 1e-3 * s}.get(case, s)
    rows = {"one": 1, "none": 0, "two": 2}.get(case, 8)
    s = s[:rows].to(dtype).requires_grad_()
    value = f(s, t[:rows].to(dtype))
    value.backward()
    assert value.isfinite()
    assert value.dtype == dtype
    assert s.grad is not None
    assert s.grad.isfinite().all()


@guards(SimilarityPreserving, "normalize(x, 1), which is the norm p = 1 and not the dimension 1")
def test_defect_8_rows_have_euclidean_norm_1() -> None:
    """normalize(x, 1) divides by the sum of absolute values: another function, 3.6 times smaller."""
    s, t = draw(16, 8), draw(16, 8, seed=1)
    wrong = np.mean((np.stack([r / np.abs(r).sum() for r in s @ s.T]) - t[:, :1]) ** 2)
    value = similarity_preserving(tensor(s), tensor(t)).item()
    compared(SimilarityPreserving, value, similarity_reference(s, t), atol=1e-9)
    assert value != pytest.approx(wrong, rel=0.1)


@guards(RKD, "gradients of 1e11 of the angles at two equal rows")
def test_defect_17_equal_rows_give_no_huge_gradient() -> None:
    """A naive angle has gradients of 1e11 at two identical rows."""
    s = torch.randn(8, 4)
    s[3] = s[5]
    s.requires_grad_()
    rkd_angle(s, torch.randn(8, 4)).backward()
    assert s.grad is not None
    assert s.grad.abs().max() < 10


@guards(RKD, "distances from a Gram matrix in single precision, which cancel at near duplicates")
def test_near_duplicates_stay_accurate() -> None:
    """Where a Gram matrix in single precision cancels."""
    s = draw(10, 6) + 50
    s[3] = s[5] + 1e-3 * draw(6, seed=4)
    t = draw(10, 6, seed=1)
    rounded = s.astype(np.float32).astype(np.float64)
    for f, reference in (REFERENCES["angle"], REFERENCES["distance"]):
        assert f(tensor(s).float(), tensor(t).float()).item() == pytest.approx(
            reference(rounded, t), rel=1e-3
        )


# -- modules -----------------------------------------------------------------------------------------------


def output(x: Tensor) -> ModelOutput:
    return ModelOutput(torch.zeros(len(x), 4), embedding=x, features={"image": x})


def adapted(term: Any, s: Tensor, t: Tensor) -> Any:
    term.adapt((tuple(s.shape[1:]),), (tuple(t.shape[1:]),))
    return term.double()


def test_modules_are_their_functions() -> None:
    s, t, batch = tensor(draw(6, 5)), tensor(draw(6, 3, seed=1)), make_batch(size=6)
    both = (output(s), output(t), batch)
    assert SimilarityPreserving()(*both).item() == similarity_preserving(s, t).item()
    assert ProbabilisticTransfer()(*both).item() == probabilistic_transfer(s, t).item()
    assert CKA()(*both).item() == 1 - linear_cka(s, t).item()
    expected = 2 * rkd_distance(s, t) + 3 * rkd_angle(s, t)
    assert RKD(distance=2.0, angle=3.0)(*both).item() == pytest.approx(expected.item(), abs=1e-12)
    term = adapted(CrossModalContrastive(dim=4, temperature=0.2), s, t)
    projected = (term.student_projection(s), term.teacher_projection(t))
    expected = contrastive_alignment(*projected, batch["sample_id"], 0.2)
    assert term(*both).item() == pytest.approx(expected.item(), rel=1e-6)
    general = adapted(ModalityGeneralHint(saliency=[0.1, 0.9, 0.5], kept=0.7), s, t)
    assert general.weight.tolist() == [0.0, 1.0, 1.0]
    assert general(*both).item() == pytest.approx(masked_hint(general.regressor(s), t, general.weight).item())


def test_absent_rows_take_no_part_and_ids_follow_them() -> None:
    s, t, batch = tensor(draw(6, 5)), tensor(draw(6, 3, seed=1)), make_batch(("image",), 6)
    batch["present"]["image"][[1, 4]] = False
    kept = [0, 2, 3, 5]
    term = CrossModalContrastive("features.image", "features.image", dim=4)
    term = adapted(term, s, t)
    projected = (term.student_projection(s[kept]), term.teacher_projection(t[kept]))
    expected = contrastive_alignment(*projected, batch["sample_id"][kept], 0.07)
    assert term(output(s), output(t), batch).item() == pytest.approx(expected.item(), rel=1e-6)


def test_memory_remembers_the_newest_and_never_the_sample_itself() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(4, 5).double(), torch.randn(4, 3).double()
    term = adapted(ContrastiveRepresentation(dim=6, memory=6, samples=12), s, t)

    def step(ids: list[int]) -> float:
        batch: Any = {"sample_id": torch.tensor(ids), "present": {}}
        return float(term(output(s), output(t), batch))

    step([1, 2, 3, 4])
    assert term.bank_id[: int(term.filled)].tolist() == [1, 2, 3, 4]
    again, others = step([1, 2, 3, 4]), None
    assert int(term.filled) == 6
    term.eval()
    projected = torch.nn.functional.normalize(term.teacher_projection(t), dim=1)
    torch.testing.assert_close(term.bank[:4], projected)
    others = step([5, 6, 7, 8])  # now the same rows are negatives
    assert others > step([1, 2, 3, 4])
    assert math.isfinite(again)
    assert {"bank", "bank_id", "filled"} <= set(term.state_dict())


@guards(
    ContrastiveRepresentation,
    "memory that needs an index of the data, and that does not move with the module",
)
def test_defect_7_memory_needs_no_index_of_the_data() -> None:
    term = adapted(ContrastiveRepresentation(memory=8), torch.randn(3, 5), torch.randn(3, 5))
    x = output(torch.randn(3, 5).double())
    assert term(x, x, make_batch(size=3)).isfinite()
    assert all(b.device == term.bank.device for b in term.to("meta").buffers())  # all of it moves


def test_learned_temperature_gets_a_gradient() -> None:
    s = torch.randn(5, 4).double()
    term = adapted(CrossModalContrastive(), s, s)
    term(output(s), output(s), make_batch(size=5)).backward()
    assert term.log_scale.grad.abs() > 0


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: RKD(distance=-1.0), r"RKD\.distance"),
        (lambda: ProbabilisticTransfer(epsilon=0.0), "epsilon"),
        (lambda: CrossModalContrastive(temperature=0.0), "CrossModalContrastive"),
        (lambda: ContrastiveRepresentation(memory=0), "ContrastiveRepresentation"),
        (lambda: ModalityGeneralHint(kept=0.0), "kept"),
        (lambda: CrossModalContrastive().adapt(((3, 4, 4),), ((5,),)), "one vector a sample"),
        (lambda: ModalityGeneralHint(saliency=[1.0]).adapt(((3,),), ((5,),)), "saliency of 1 channels"),
    ],
)
def test_settings_are_checked(make: Any, where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        make()
