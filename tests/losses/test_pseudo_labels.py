"""Pseudo-labels: which rows get one, and how confidence and class balance are controlled."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lightning_distill.errors import ConfigError
from lightning_distill.losses import PseudoLabels, pseudo_label_loss, pseudo_labels
from lightning_distill.structures import UNLABELLED, labelled_rows
from tests.losses import logit_checks as checks
from tests.losses.logit_checks import SHAPES, Array, Target, as_output, batch_with, draw, softmax
from tests.processes import needs_fork, run_apart
from tests.verification import compared, gradchecked

U = UNLABELLED
TILT = np.array([1.0, 0.0, -1.0])
"""Makes some classes more likely than others."""


def reference(student: Array, teacher: Array, y: Target, threshold: float, ratio: Array | None) -> float:
    """FixMatch, equation 4: the mean over unlabelled rows of 1(max q >= tau) H(argmax q, p)."""
    p, q = softmax(student), softmax(teacher) * (1.0 if ratio is None else ratio)
    q = q / q.sum(axis=1, keepdims=True)
    rows = [-np.log(p[i, q[i].argmax()]) * (q[i].max() >= threshold) for i in range(len(p)) if y[i] == U]
    return float(np.mean(rows)) if rows else 0.0


def loss(threshold: float = 0.4, ratio: Sequence[float] | None = None) -> checks.Loss:
    def function(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weights = None if ratio is None else torch.tensor(ratio, dtype=s.dtype)
        return pseudo_label_loss(s, t, labelled_rows(y), threshold, weights)

    return function


def some_labelled(rows: int, classes: int) -> Target:
    return np.where(np.arange(rows) % 3 == 1, np.arange(rows) % classes, U)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("aligned", [False, True])
def test_is_the_formula_of_the_paper(shape: tuple[int, int], threshold: float, aligned: bool) -> None:
    student, teacher, y = draw(*shape), draw(*shape, seed=1), some_labelled(*shape)
    ratio = np.random.default_rng(5).uniform(0.3, 3, shape[1]) if aligned else None
    found = pseudo_label_loss(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        torch.from_numpy(y != U),
        threshold,
        None if ratio is None else torch.from_numpy(ratio),
    )
    expected = reference(student, teacher, y, threshold, ratio)
    compared(PseudoLabels, found, expected, rtol=1e-12, atol=1e-15)


def test_gradients_order_and_shifts() -> None:
    y = torch.tensor([U, 2, U, U])
    s, t = (
        torch.from_numpy(draw(4, 4)).requires_grad_(),
        torch.from_numpy(draw(4, 4, seed=1)).requires_grad_(),
    )
    gradchecked(PseudoLabels, lambda z: loss()(z, t.detach(), y), s)
    loss(0.0)(s, t, y).backward()
    assert t.grad is None
    assert s.grad is not None
    expected = s.detach().softmax(1) - torch.nn.functional.one_hot(t.detach().argmax(1), 4)
    torch.testing.assert_close(s.grad, expected * (y == U)[:, None] / 3)
    shift = torch.tensor([[40.0], [-7.0], [0.0], [1e3]], dtype=torch.float64)
    torch.testing.assert_close(loss()(s + shift, t - shift, y), loss()(s, t, y))
    rows = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss()(s[rows], t[rows], y[rows]), loss()(s, t, y))


def test_hard_cases_stay_finite_in_half_precision() -> None:
    checks.stays_finite(loss(0.3))
    checks.stays_finite(loss(0.3, None))
    for ratio in ([0.0, 1.0, 1.0], [1e-30, 1e30, 1.0]):
        s = torch.tensor([[1e3, -1e3, 0.0], [0.0, 0.0, 1e3]], requires_grad=True)
        value = loss(0.0, ratio)(s, s.detach(), torch.tensor([U, U]))
        value.backward()
        assert value.isfinite()
        assert s.grad is not None
        assert s.grad.isfinite().all()


@pytest.mark.parametrize("case", ["empty", "all labelled", "none sure", "one row", "not finite"])
def test_no_pseudo_label_gives_0_with_a_gradient_of_0(case: str) -> None:
    rows = {"empty": 0, "one row": 1}.get(case, 3)
    s, t = torch.randn(rows, 4, requires_grad=True), torch.zeros(rows, 4)
    y = torch.full((rows,), 1 if case == "all labelled" else U)
    if case == "not finite":
        t[:] = torch.nan
    term = PseudoLabels(0.9, relative=False)
    term.adapt(((4,),), ())
    value = term(as_output(s), as_output(t), batch_with(y))
    value.backward()
    assert value.item() == 0
    assert s.grad is not None
    assert not s.grad.any()
    assert term.kept_share == 0
    assert term.ratio().isfinite().all()


def test_threshold_0_takes_every_unlabelled_row_and_1_none_but_the_certain() -> None:
    teacher, labelled = torch.from_numpy(draw(6, 3)), torch.tensor([0, 0, 1, 0, 0, 1]).bool()
    expected = teacher.argmax(1).masked_fill(labelled, U)
    assert pseudo_labels(teacher, labelled, 0.0).tolist() == expected.tolist()
    assert pseudo_labels(teacher, labelled, 1.0).tolist() == [U] * 6
    teacher[0, 1], teacher[1, 0] = torch.nan, torch.inf  # no answers
    assert pseudo_labels(teacher, labelled, 0.0).tolist() == [U, U, *expected.tolist()[2:]]


# -- the term -----------------------------------------------------------------------------------------------


def made(classes: int = 3, **options: Any) -> PseudoLabels:
    term = PseudoLabels(**options)
    term.adapt(((classes,),), ())
    return term


def call(term: PseudoLabels, s: Array, t: Array, y: Target) -> float:
    answers = (as_output(torch.from_numpy(x)) for x in (s, t))
    return term(*answers, batch_with(torch.from_numpy(y))).item()


def test_module_equals_function() -> None:
    term = made(4, threshold=0.4, relative=False, balanced=False)
    checks.module_equals(term, loss(0.4))


def test_relative_confidence_is_a_share_of_that_on_labelled_rows() -> None:
    """AdaMatch: c_tau = tau / n_SL sum_i max_j."""
    s, t, y = draw(9, 3), draw(9, 3, seed=1), some_labelled(9, 3)
    bar = 0.9 * softmax(t)[y != U].max(axis=1).mean()
    kept = (softmax(t)[y == U].max(axis=1) >= bar).mean()
    assert 0 < kept < 1  # a case that can fail
    term = made(balanced=False)
    assert call(term, s, t, y) == pytest.approx(reference(s, t, y, bar, None), rel=1e-9)
    assert term.kept_share.item() == pytest.approx(kept)
    nobody = np.full(9, U)
    assert call(term, s, t, nobody) == pytest.approx(reference(s, t, nobody, 0.9, None), rel=1e-9)


class Counted:
    """The running means in float64, by the definition: every row times momentum^(batches since)."""

    def __init__(self, classes: int, momentum: float) -> None:
        self.momentum, self.labels, self.said = momentum, np.zeros(classes), np.zeros(classes)

    def count(self, t: Array, y: Target) -> None:
        classes = len(self.labels)
        for name, rows in (("labels", np.eye(classes)[y[y != U]]), ("said", softmax(t)[y == U])):
            if len(rows):
                setattr(self, name, self.momentum * getattr(self, name) + rows.sum(axis=0))

    def ratio(self, prior: Sequence[float] | None = None) -> Array:
        n = self.said.sum() if prior else min(self.labels.sum(), self.said.sum())
        wanted = np.array(prior) / sum(prior) if prior else self.labels / max(self.labels.sum(), 1)
        return (n * wanted + 1) / (n * self.said / max(self.said.sum(), 1) + 1)


@pytest.mark.parametrize("prior", [None, [1.0, 1.0, 2.0]])
def test_balance_follows_the_running_means(prior: list[float] | None) -> None:
    term, counted = made(threshold=0.5, relative=False, momentum=0.8, prior=prior), Counted(3, 0.8)
    for step, rows in enumerate((9, 5, 1, 12)):
        s, t = draw(rows, 3, seed=step), draw(rows, 3, seed=50 + step) + TILT
        y = some_labelled(rows, 3)
        counted.count(t, y)
        expected = reference(s, t, y, 0.5, counted.ratio(prior))
        compared(PseudoLabels, call(term, s, t, y), expected, rtol=1e-5, dtype=torch.float32)
        compared(PseudoLabels, term.ratio(), counted.ratio(prior), rtol=1e-5)


def test_with_many_rows_the_ratio_is_that_of_the_papers() -> None:
    """ReMixMatch: p~ = normalize(p * p(y) / mean p)."""
    s, t, y = draw(6000, 3), draw(6000, 3, seed=1) + TILT, some_labelled(6000, 3)
    y[y == 2] = 0  # labels of two classes only
    term = made(threshold=0.0)
    call(term, s, t, y)
    paper = np.bincount(y[y != U], minlength=3) / (y != U).sum() / softmax(t)[y == U].mean(axis=0)
    np.testing.assert_allclose(term.ratio().numpy(), paper, rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("prior", [None, [2.0, 2.0, 2.0]])
def test_nothing_changes_where_classes_are_balanced(prior: list[float] | None) -> None:
    """As many labels of each class, and as much said of each: however many rows are on either side."""
    t = np.concatenate([np.eye(3)] * 4) * 2.0
    y = np.array([0, 1, 2] + [U] * 9)
    term = made(threshold=0.0, prior=prior)
    assert call(term, draw(12, 3), t, y) == pytest.approx(reference(draw(12, 3), t, y, 0.0, None), rel=1e-6)
    np.testing.assert_allclose(term.ratio().numpy(), np.ones(3), rtol=1e-6)


def test_before_anything_is_known_nothing_changes() -> None:
    np.testing.assert_array_equal(made().ratio().numpy(), np.ones(3))
    term = made()
    call(term, draw(6, 3), draw(6, 3), np.full(6, U))  # rows of the target alone: no prior is known
    np.testing.assert_array_equal(term.ratio().numpy(), np.ones(3))


def test_a_class_that_is_said_too_often_is_held_back() -> None:
    t = np.random.default_rng(0).normal(size=(300, 3)) + np.array([2.0, 0.0, 0.0])
    y = np.where(np.arange(300) < 150, np.arange(300) % 3, U)
    plain, fair = made(threshold=0.0, balanced=False), made(threshold=0.0)
    for term in (plain, fair):
        call(term, draw(300, 3), t, y)
    labelled, logits = torch.from_numpy(y != U), torch.from_numpy(t)
    found = [
        np.bincount(chosen[chosen != U], minlength=3)
        for chosen in (
            pseudo_labels(logits, labelled, 0.0).numpy(),
            pseudo_labels(logits, labelled, 0.0, fair.ratio()).numpy(),
        )
    ]
    assert found[0][0] > 110
    assert max(found[1]) < 70


def test_means_move_in_training_only_and_stay_float32() -> None:
    term = made().bfloat16()
    s, t = torch.randn(6, 3, dtype=torch.bfloat16), torch.randn(6, 3, dtype=torch.bfloat16)
    batch = batch_with(torch.tensor([0, 1, U, U, 2, U]))
    assert term(as_output(s), as_output(t), batch).dtype == torch.bfloat16
    before = [x.clone() for x in term.buffers()]
    assert [x.dtype for x in before] == [torch.float32] * 2
    assert before[0].tolist() == [1, 1, 1]
    term.eval()(as_output(s), as_output(t), batch)
    assert all(torch.equal(a, b) for a, b in zip(before, term.buffers(), strict=True))


def test_a_batch_without_labels_forgets_none() -> None:
    term = made(momentum=0.5)
    call(term, draw(3, 3), draw(3, 3), np.array([0, 1, U]))
    for _ in range(300):
        call(term, draw(3, 3), draw(3, 3), np.full(3, U))
    assert term.labels_seen.tolist() == [1, 1, 0]


def test_the_means_are_saved() -> None:
    term, twin = made(), PseudoLabels()
    for step in range(3):
        call(term, draw(6, 3, seed=step), draw(6, 3, seed=9 + step), some_labelled(6, 3))
    twin.load_state_dict(term.state_dict())
    assert torch.equal(twin.ratio(), term.ratio())
    arguments = draw(6, 3, seed=20), draw(6, 3, seed=21), some_labelled(6, 3)
    assert call(twin, *arguments) == call(term, *arguments)


def _two(rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    term, mine = made(), slice(5) if rank == 0 else slice(5, 9)
    for step in range(2):
        s, t = draw(9, 3, seed=step), draw(9, 3, seed=9 + step)
        call(term, s[mine], t[mine], some_labelled(9, 3)[mine])
    (folder / f"rank{rank}.json").write_text(json.dumps([x.tolist() for x in term.buffers()]))
    dist.destroy_process_group()


def _both(folder: Path) -> None:
    torch.multiprocessing.start_processes(_two, (folder,), nprocs=2, start_method="fork")


@needs_fork
def test_the_means_are_those_of_all_processes(tmp_path: Path) -> None:
    run_apart(_both, tmp_path)
    whole = made()
    for step in range(2):
        call(whole, draw(9, 3, seed=step), draw(9, 3, seed=9 + step), some_labelled(9, 3))
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        np.testing.assert_allclose(found, [x.tolist() for x in whole.buffers()], rtol=1e-5)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"threshold": 1.5}, r"PseudoLabels\.threshold.*a probability"),
    ({"threshold": float("nan")}, r"PseudoLabels\.threshold"),
    ({"momentum": 1.0}, r"PseudoLabels\.momentum.*below 1"),
    ({"prior": [0.5, 0.5], "balanced": False}, r"PseudoLabels\.prior.*set balanced to true"),
    ({"prior": [0.5, -0.5]}, r"PseudoLabels\.prior.*0 or more for each class"),
    ({"prior": [0.0, 0.0]}, r"PseudoLabels\.prior.*not all 0"),
    ({"prior": []}, r"PseudoLabels\.prior"),
    ({"prior": [float("inf"), 1.0]}, r"PseudoLabels\.prior"),
]


@pytest.mark.parametrize(("options", "told"), BAD)
def test_bad_settings_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        PseudoLabels(**options)


def test_a_prior_of_other_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="found 2 shares for 3 classes; expected one for each class"):
        made(prior=[0.5, 0.5])
