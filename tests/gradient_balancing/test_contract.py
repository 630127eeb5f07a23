"""What every gradient balancer must do, whichever file it is in."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_distill import gradients
from lightning_distill.errors import ConfigError
from lightning_distill.structures import UNLABELLED
from tests.builders import Notebook, make_data, make_trainer, same_bits, weights_of
from tests.gradient_balancing.parts import (
    CLASSES,
    ROWS,
    Step,
    Student,
    average_alone,
    inputs_of,
    take_step,
    view_of,
)
from tests.gradient_balancing.two_ranks import main, of_parts, steps
from tests.module.clip_cases import make_student
from tests.module.parts import make_module
from tests.processes import needs_fork, run_apart
from tests.shelves import build, concrete

EVERY = pytest.mark.parametrize("cls", concrete("gradient_balancing"))


def batch(modalities: tuple[str, ...] = ("a", "b"), dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    student = Student(modalities).to(dtype)
    inputs = {m: x.to(dtype) for m, x in inputs_of(modalities).items()}
    return student, inputs, torch.arange(ROWS) % CLASSES


def run(
    balancer: Any, student: Any, inputs: Any, target: Tensor, epochs: int = 3, first: int = 0
) -> list[Step]:
    """Two steps and a validation an epoch."""
    made = []
    for epoch in range(first, first + epochs):
        for i in range(2):
            step = 2 * epoch + i
            x = {m: torch.roll(v, step, 1) for m, v in inputs.items()}
            balancer.train()
            made.append(take_step(balancer, student, view_of(student, x, target, step=step, epoch=epoch)))
        if balancer.reads_validation:
            balancer.eval()
            with torch.no_grad():
                view = view_of(student, {m: v.flip(0) for m, v in inputs.items()}, target, epoch=epoch)
                balancer.terms({"task": view.logits.sum()}, view)
        balancer.end_epoch(average_alone)
    return made


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("modalities", [("a", "b"), ("a", "b", "c")])
def test_gives_finite_gradients_of_the_same_dtype(
    cls: Any, dtype: torch.dtype, modalities: tuple[str, ...]
) -> None:
    for step in run(build(cls), *batch(modalities, dtype)):
        assert step.after.keys() == step.before.keys()
        assert all(g.dtype == dtype and g.isfinite().all() for g in step.after.values())


@EVERY
def test_terms_and_what_is_told_are_finite_scalars(cls: Any) -> None:
    for step in run(build(cls), *batch()):
        assert {"task", "kd"} <= step.terms.keys()
        assert step.told, "a user is to see what it does"
        for value in (*step.terms.values(), *step.told.values()):
            assert value.shape == ()
            assert value.isfinite()


@EVERY
def test_leaves_weights_and_the_given_terms_alone(cls: Any) -> None:
    student, inputs, target = batch()
    weights = [p.detach().clone() for p in student.parameters()]
    view = view_of(student, inputs, target)
    given = {"task": view.logits.sum(), "kd": view.logits.square().sum()}
    copy = dict(given)
    build(cls).terms(given, view)
    assert given == copy
    assert all(same_bits(p.detach(), w) for p, w in zip(student.parameters(), weights, strict=True))


@EVERY
def test_state_dict_round_trip(cls: Any) -> None:
    """Into a new balancer, which has seen no batch and so does not know the modalities yet."""
    student, inputs, target = batch()
    balancer, twin = build(cls), build(cls)
    run(balancer, student, inputs, target, epochs=3)
    saved = {name: value.clone() for name, value in balancer.state_dict().items()}
    twin.load_state_dict(saved, strict=True)
    ours = run(balancer, student, inputs, target, epochs=2, first=3)
    theirs = run(twin, student, inputs, target, epochs=2, first=3)
    for one, other in zip(ours, theirs, strict=True):
        assert all(same_bits(g, other.after[name]) for name, g in one.after.items())


@EVERY
def test_the_same_step_gives_the_same_result(cls: Any) -> None:
    """Noise and order are functions of (seed, step), not of what was drawn before."""
    student, inputs, target = batch()
    first = run(build(cls), student, inputs, target)
    torch.rand(7)
    second = run(build(cls), student, inputs, target)
    for one, other in zip(first, second, strict=True):
        assert all(same_bits(g, other.after[name]) for name, g in one.after.items())


@EVERY
def test_a_modality_that_no_sample_has_is_left_alone(cls: Any) -> None:
    student, inputs, target = batch(("a", "b", "c"))
    present = {m: torch.full((ROWS,), m != "b") for m in inputs}
    for step in range(2):
        done = take_step(build(cls), student, view_of(student, inputs, target, present, step=step))
        for old, new in done.of("b"):
            assert not old.any()
            assert not new.any()
        assert all(g.isfinite().all() for g in done.after.values())


@EVERY
def test_what_an_absent_sample_holds_changes_nothing(cls: Any) -> None:
    student, inputs, target = batch()
    present = {"a": torch.arange(ROWS) % 3 > 0, "b": torch.ones(ROWS, dtype=torch.bool)}
    other = {"a": inputs["a"].masked_fill(~present["a"][:, None], 1e3), "b": inputs["b"]}
    one = take_step(build(cls), student, view_of(student, inputs, target, present))
    two = take_step(build(cls), student, view_of(student, other, target, present))
    assert all(torch.equal(g, two.after[name]) for name, g in one.after.items())


@EVERY
def test_a_batch_without_labels_gives_no_nan(cls: Any) -> None:
    student, inputs, target = batch()
    done = run(build(cls), student, inputs, torch.full_like(target, UNLABELLED))
    assert all(g.isfinite().all() for step in done for g in step.after.values())


@EVERY
def test_one_modality_is_refused(cls: Any) -> None:
    if cls.__name__ == "PCGrad":
        pytest.skip("it balances terms, not modalities")
    student, inputs, target = batch(("a",))
    view = view_of(student, inputs, target)
    with pytest.raises(ConfigError, match=rf"{cls.__name__}: found a student of a; expected two modalities"):
        build(cls).terms({"task": view.logits.sum()}, view)


@EVERY
@pytest.mark.parametrize("target", [torch.zeros(ROWS, CLASSES, dtype=torch.int8), torch.zeros(ROWS, CLASSES)])
def test_other_targets_are_refused_by_those_that_read_them(cls: Any, target: Tensor) -> None:
    student, inputs, labels = batch()
    view = view_of(student, inputs, labels)
    view.__dict__["target"] = target
    if cls.__name__ in {"OGMGE", "AGM", "PMR"}:
        with pytest.raises(ConfigError, match=rf"{cls.__name__}: .*expected one class a sample"):
            build(cls).terms({"task": view.logits.sum()}, view)
    else:
        build(cls).terms({"task": view.logits.sum()}, view)


@EVERY
def test_nothing_that_is_not_finite_is_remembered(cls: Any) -> None:
    student, inputs, target = batch()
    broken = {m: x.masked_fill(torch.arange(ROWS)[:, None] == 3, torch.inf) for m, x in inputs.items()}
    balancer = build(cls)
    run(balancer, student, broken, target)
    assert all(value.isfinite().all() for value in balancer.state_dict().values())


class _NoValues(TorchDispatchMode):
    """Refuses what makes the host wait for an accelerator.

    What `Gradients` does by itself on the CPU, to save a pass, is not the balancer's doing.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        waits = ("_local_scalar_dense", "aten.equal", "aten.nonzero", "masked_select")
        files = [Path(frame.filename).parent for frame in traceback.extract_stack(limit=12)]
        own = Path(gradients.__file__).parent not in files
        assert not (own and any(word in name for word in waits)), f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


@EVERY
def test_the_host_never_waits_for_the_device(cls: Any) -> None:
    student, inputs, target = batch()
    with _NoValues():
        run(build(cls), student, inputs, target)
    with pytest.raises(AssertionError, match="waits for the device"), _NoValues():
        target.sum().item()


def fit(cls: Any, folder: Path, epochs: int, resume: Path | None = None) -> tuple[Any, Notebook]:
    seed_everything(3, verbose=False)
    module, notebook = make_module(student=make_student(), gradient_balancer=build(cls)), Notebook()
    trainer = make_trainer(folder, max_epochs=epochs, logger=notebook)
    trainer.fit(module, make_data(), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return module, notebook


@EVERY
def test_trains_and_goes_on_where_it_was(cls: Any, tmp_path: Path) -> None:
    """In the training module: what is remembered is in the checkpoint, and what is done is logged."""
    fit(cls, tmp_path, 2)
    resumed, _ = fit(cls, tmp_path, 4, tmp_path / "2.ckpt")
    whole, notebook = fit(cls, tmp_path, 4)
    expected = weights_of(whole)
    assert all(same_bits(tensor, expected[name]) for name, tensor in weights_of(resumed).items())
    logged = {name for _, row in notebook.rows for name in row}
    assert any(name.startswith(("balance/", "train/unimodal", "train/prototype")) for name in logged), logged


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("ranks")
    run_apart(main, folder)
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@needs_fork
@EVERY
def test_two_processes_with_half_a_batch_each(cls: Any, ranks: list[Any]) -> None:
    """They balance as one with the whole batch does, and remember the same."""
    for rank in ranks:
        for mine, whole in zip(rank[cls.__name__], steps(cls), strict=True):
            torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-6)


@needs_fork
def test_gradients_that_are_split_are_measured_whole(ranks: list[Any]) -> None:
    expected = of_parts()
    for rank in ranks:
        for mine, whole in zip(rank["parts"][:2], expected[:2], strict=True):
            torch.testing.assert_close(mine, whole, rtol=1e-5, atol=1e-5)
    for one, other in zip(ranks[0]["parts"][2:], ranks[1]["parts"][2:], strict=True):
        assert one.any()
        assert not torch.allclose(one, other), "the parts of one tensor must not get the same noise"
