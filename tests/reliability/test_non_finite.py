"""Whatever is not finite is caught on the step it happens, named, and leaves no trace."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_distill.clipping import (
    PropagateNonFinite,
    SkipNonFinite,
)
from lightning_distill.guards.origin import origin_of
from lightning_distill.module import DistillationModule
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import FrozenTeacher
from tests.builders import make_batch, make_model, same_bits, weights_of
from tests.reliability.counts import times
from tests.reliability.injections import (
    BAD,
    RULES,
    Inject,
    Outcome,
    Term,
    distilled,
    has_bad,
    in_layer,
    regressing,
    same_state,
    state_of,
    train,
)

STEPS = 4
KINDS = ("term", "input", "weight", "layer", "gradient", "teacher")


class Draw:
    """One case of many: a rule, a value, a step and a sample."""

    def __init__(self, number: int, what: str) -> None:
        rng = random.Random(f"{what} {number}")
        turn = number + KINDS.index(what) * len(RULES) // len(KINDS)  # so that few cases have every rule, too
        self.rule, self.bad = RULES[turn % len(RULES)](), BAD[rng.randrange(3)]
        self.step, self.row, self.choice = rng.randrange(STEPS), rng.randrange(8), rng


def check(outcome: Outcome, step: int) -> str:
    """It ended on that step, with everything as before it; what was said."""
    assert outcome.error is not None
    assert outcome.error.where == f"epoch 0, step {step}"
    assert outcome.trainer.global_step == step
    assert same_state(outcome.inject.before[-1], state_of(outcome.trainer, outcome.module))
    assert len(outcome.inject.before) == step + 1
    assert sorted(outcome.saved) == list(range(1, step + 1))
    assert not any(has_bad(checkpoint) for checkpoint in outcome.saved.values())
    return str(outcome.error)


def only(outcome: Outcome, row: int) -> str:
    return f"samples [{outcome.inject.batches[-1]['sample_id'][row]}]"


@pytest.mark.row("G1")
@pytest.mark.parametrize("kind", ["term", "input", "weight", "layer"])
def test_a_loss_that_is_not_finite(tmp_path: Path, kind: str) -> None:
    for number in range(times(8, 63)):
        draw = Draw(number, kind)
        module = distilled(draw.rule, losses={"kd": Term(detached=bool(number % 2)), "other": Term()})
        path = draw.choice.choice(["encoders.a.linear", "encoders.a.dropout", "head"])
        do, undo = (
            in_layer(module.student, path, draw.row, draw.bad) if kind == "layer" else spoiler(kind, draw)
        )
        outcome = train(tmp_path / str(number), module, Inject((draw.step,), do, undo))
        said = check(outcome, draw.step)
        words = {
            "term": "a term; all answers are finite",
            "input": "input 'a'",
            "weight": "weight",
            "layer": f"layer '{path}' of the student",
        }
        assert f"first not finite: {words[kind]};" in said
        assert "'other'" not in said or kind != "term"
        assert f"'{'task' if kind == 'weight' else 'kd'}': " in said
        assert kind == "term" or only(outcome, draw.row) in said


def spoiler(kind: str, draw: Draw) -> tuple[Callable[..., None], Callable[[], None]]:
    """What spoils a term, or something in a batch."""

    def do(module: DistillationModule, batch: Batch) -> None:
        if kind == "term":
            term = module.terms.losses["kd"]
            assert isinstance(term, Term)
            term.bad = draw.bad
        elif kind == "input":
            values = batch["inputs"]["a"]
            assert isinstance(values, Tensor)
            values[draw.row, 2] = draw.bad
        else:
            batch["weight"] = torch.ones(len(batch["target"]))
            batch["weight"][draw.row] = draw.bad

    return do, lambda: None


def test_a_number_that_is_not_known_is_no_fault(tmp_path: Path) -> None:
    """NaN and infinite targets of a regression are left out of loss and metrics."""
    module, source = regressing(None)

    def do(module: DistillationModule, batch: Batch) -> None:
        batch["target"][:3] = torch.tensor(BAD)[:, None]

    outcome = train(tmp_path, module, Inject((0, 1, 2), do), source)
    assert outcome.error is None
    assert not has_bad(outcome.saved[3])


@pytest.mark.row("G2")
def test_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    """Under every rule that does not decide by itself that such steps are left out, or let through."""
    for number in range(times(len(RULES), 145)):
        draw = Draw(number, "gradient")
        if isinstance(draw.rule, SkipNonFinite | PropagateNonFinite):
            continue
        module, handles = distilled(draw.rule), list[Any]()
        name, parameter = draw.choice.choice(list(module.student.named_parameters()))

        def spoil(grad: Tensor, draw: Draw = draw) -> Tensor:
            grad = grad.clone()
            grad.view(-1)[draw.row % grad.numel()] = draw.bad
            return grad

        def do(*_: Any, parameter: nn.Parameter = parameter, handles: list[Any] = handles) -> None:
            handles.append(parameter.register_hook(spoil))

        outcome = train(tmp_path / str(number), module, Inject((draw.step,), do))
        said = check_where(outcome, draw.step)
        nan = int(math.isnan(draw.bad))
        assert f"'{name}' ({nan} NaN, {1 - nan} infinite of {parameter.numel()})" in said
        assert said.count("infinite of") == 1


def check_where(outcome: Outcome, step: int) -> str:
    """As `check`; a `RaiseNonFinite` around the rule says it in its own words."""
    assert outcome.error is not None
    if outcome.error.where == f"gradients at step {step}":
        outcome.error.where = f"epoch 0, step {step}"
    return check(outcome, step)


@pytest.mark.row("S9")
def test_a_teacher_that_is_not_finite(tmp_path: Path) -> None:
    for number in range(times(len(RULES), 125)):
        draw = Draw(number, "teacher")
        module, teacher = distilled(draw.rule), make_model()
        module.teacher = type(module.teacher)(teacher)
        path = draw.choice.choice(["encoders.a.dropout", "encoders.b.dropout", "head"])
        do, undo = in_layer(teacher, path, draw.row, draw.bad)
        outcome = train(tmp_path / str(number), module, Inject((draw.step,), do, undo))
        said = check(outcome, draw.step)
        assert f"first not finite: layer '{path}' of the teacher;" in said
        assert only(outcome, draw.row) in said


class Deaf(Term):
    """A term that does not look at the teacher."""

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        return student.logits.square().mean()


@pytest.mark.row("S9")
@pytest.mark.parametrize("bad", BAD)
def test_a_teacher_whose_logits_no_term_reads(tmp_path: Path, bad: float) -> None:
    teacher = make_model()
    module = distilled(None, teacher=FrozenTeacher(teacher), losses={"kd": Deaf()})
    do, undo = in_layer(teacher, "head", 5, bad)
    outcome = train(tmp_path, module, Inject((2,), do, undo))
    said = check(outcome, 2)
    assert "the teacher's logits" in said
    assert "layer 'head' of the teacher" in said
    assert only(outcome, 5) in said


def test_looking_for_the_origin_leaves_no_trace() -> None:
    """In running statistics, random numbers, or hooks; and a backward pass can still follow."""
    student, batch = make_model(), make_batch()
    student.encoders["a"].linear.weight.data[0, 0] = math.inf
    value = student(batch).features["b"].sum()
    before, random_before = weights_of(student), torch.get_rng_state()
    origin = origin_of(batch, {"student": student}, lambda: {"student": student(batch)})
    assert origin.places == ("layer 'encoders.a.linear' of the student, whose own weights are not finite",)
    after = weights_of(student)
    assert all(same_bits(before[name], after[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), random_before)
    assert not any(part._forward_hooks for part in student.modules())
    value.backward()
