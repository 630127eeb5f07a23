"""Gradients, logits and batches at their extremes: what is finite stays finite, and right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_distill.losses import logit_kd
from lightning_distill.structures import UNLABELLED
from tests.builders import Notebook, VectorSource, make_data, make_model, make_trainer, same_bits
from tests.losses.test_contract import make_loss, outputs
from tests.module.parts import make_module
from tests.reliability.counts import times
from tests.shelves import build, concrete

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SIZES = ("zero", "tiny", "small", "one", "huge", "largest")


def entries(size: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Random signs of one size."""
    info, signs = torch.finfo(dtype), torch.randn(shape).sign().to(dtype)
    sizes = {"zero": 0.0, "tiny": info.smallest_normal, "small": 1e-3, "one": 1.0}
    return signs * (sizes | {"huge": info.max**0.75, "largest": info.max})[size]


@pytest.mark.row("G4")
@pytest.mark.parametrize("cls", concrete("clipping"))
def test_every_rule_on_gradients_of_any_size_and_type(cls: Any) -> None:
    """Some parameters have no gradient; 0 stays 0, nothing grows, turns round or becomes NaN."""
    shapes = {"encoders.a.0.weight": (4, 3), "encoders.b.0.weight": (2, 2, 3), "head.bias": (3,), "a": ()}

    @settings(max_examples=times(25, 1000), deadline=None)
    @given(
        st.lists(st.lists(st.sampled_from(SIZES), min_size=4, max_size=4), min_size=1, max_size=4),
        st.sampled_from(DTYPES),
    )
    def holds(steps: list[list[str]], dtype: torch.dtype) -> None:
        rule = build(cls)
        for number, sizes in enumerate(steps):
            given = {name: nn.Parameter(torch.ones(shape, dtype=dtype)) for name, shape in shapes.items()}
            given["unused"] = nn.Parameter(torch.ones(2, dtype=dtype))
            before = []
            for parameter, size, shape in zip(given.values(), sizes, shapes.values(), strict=False):
                parameter.grad = entries(size, dtype, shape)
                before.append(parameter.grad.clone())
            rule.clip(given, step=number)
            after = [p.grad for p in given.values() if p.grad is not None]
            assert len(after) == len(before)
            for old, new in zip(before, after, strict=True):
                assert new.isfinite().all()
                assert (new.double().abs() <= old.double().abs() * (1 + 1e-6)).all()
                assert (old.sign() * new.sign() >= 0).all()
                assert same_bits(new[old == 0], old[old == 0])

    holds()


@pytest.mark.row("G7")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distillation_at_any_temperature(dtype: torch.dtype) -> None:
    logit = st.sampled_from([-1e4, -30.0, -1.0, 0.0, 1e-3, 5.0, 1e4])

    @settings(max_examples=times(100, 3000), deadline=None)
    @given(
        st.integers(1, 4).flatmap(
            lambda classes: st.tuples(
                *[st.lists(st.lists(logit, min_size=classes, max_size=classes), min_size=2, max_size=2)] * 2
            )
        ),
        st.sampled_from([1e-3, 0.5, 1.0, 4.0, 1e3]),
    )
    def holds(both: tuple[list[list[float]], list[list[float]]], temperature: float) -> None:
        student, teacher = (torch.tensor(logits, dtype=dtype) for logits in both)
        student.requires_grad_()
        value = logit_kd(student, teacher, temperature)
        value.backward()
        assert value.isfinite()
        # The difference of two equal logarithms is 0 up to a digit of theirs, times the square of T.
        rounding = 8 * torch.finfo(dtype).eps * temperature * (temperature + teacher.abs().amax().item())
        assert value >= -rounding
        assert student.grad is not None
        assert student.grad.isfinite().all()
        assert abs(logit_kd(teacher, teacher, temperature).item()) <= rounding
        if student.shape[1] == 1:
            assert value == 0

    holds()


@pytest.mark.row("G8")
@pytest.mark.parametrize("cls", concrete("losses"))
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("labelled", [True, False])
def test_every_term_on_a_batch_of_one(cls: Any, rows: int, labelled: bool) -> None:
    loss = make_loss(cls)
    student, teacher, batch = outputs()
    chosen = torch.arange(rows)
    target = batch["target"][chosen] if labelled else torch.full((rows,), UNLABELLED)
    few = {
        **batch,
        "target": target,
        "sample_id": batch["sample_id"][chosen],
        "domain": batch["domain"][chosen],
        "inputs": {m: x[chosen] for m, x in batch["inputs"].items() if isinstance(x, Tensor)},
        "present": {m: x[chosen] for m, x in batch["present"].items()},
        "in_target_domain": batch["in_target_domain"][chosen],
    }
    value = loss(student.rows(chosen), teacher.rows(chosen), few)  # type: ignore[arg-type]
    assert value.isfinite()
    if value.requires_grad:
        value.backward()
    grads = [x.grad for x in [student.logits, student.embedding] if x is not None and x.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.row("G8")
@pytest.mark.parametrize("unlabelled", [(), range(28)])
def test_training_with_a_last_batch_of_one(tmp_path: Path, unlabelled: Any) -> None:
    """28 samples in batches of 9; with no label at all the teacher alone is learned from."""
    student = make_model(("a",))
    student.encoders["a"].norm = nn.Identity()  # batch statistics of one sample are refused by torch
    notebook = Notebook()
    module = make_module(student=student)
    trainer = make_trainer(tmp_path, logger=notebook)
    trainer.fit(module, make_data(VectorSource(unlabelled=unlabelled), batch_size=9))
    assert trainer.global_step == 4
    assert all(x.isfinite().all() for x in module.state_dict().values())
    assert len(notebook.series("train/task")) == 4
    assert all((value == 0) == bool(unlabelled) for value in notebook.series("train/task"))
