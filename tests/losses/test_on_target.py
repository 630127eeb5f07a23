"""A term on the rows of the target alone: one that trains something, gathers, or reads a modality."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses import CKA, DistillationLoss, Hint, LogitKD, OnTarget
from lightning_distill.mutual import MutualDistillationModule
from lightning_distill.structures import Batch, ModelOutput
from tests.builders import make_batch, make_model, make_output

TARGET = torch.tensor([True, False, True, True, False, True])
ROWS = TARGET.nonzero()[:, 0]
TERMS = [Hint(), Hint("features.image", "features.text"), CKA("features.image", "features.image"), LogitKD()]


def case(target: Tensor = TARGET) -> tuple[ModelOutput, ModelOutput, Batch]:
    student, teacher = make_output(6, 4), make_output(6, 4)
    student = replace(student, logits=student.logits.requires_grad_())
    batch = make_batch(("image", "text"), 6, {"image": (2,)})
    return student, teacher, {**batch, "in_target_domain": target}  # type: ignore[typeddict-item]


def adapted(term: DistillationLoss) -> OnTarget:
    student, teacher, _ = case()
    wrapped = OnTarget(term)
    sides = [(student, wrapped.student_layers), (teacher, wrapped.teacher_layers)]
    wrapped.adapt(*(tuple(tuple(o.at(name).shape[1:]) for name in names) for o, names in sides))  # type: ignore[arg-type]
    return wrapped


@pytest.mark.parametrize("term", TERMS, ids=lambda term: type(term).__name__)
def test_is_the_term_on_those_rows(term: DistillationLoss) -> None:
    student, teacher, batch = case()
    found = adapted(term)(student, teacher, batch)
    alone = make_batch(("image", "text"), 4, {"image": (1,)})  # the third row is the second of the target
    alone = {**alone, "target": batch["target"][ROWS], "sample_id": batch["sample_id"][ROWS]}
    assert found > 0
    assert torch.equal(found, term(student.rows(ROWS), teacher.rows(ROWS), alone))


def test_without_target_rows_what_it_trains_has_a_gradient_of_0() -> None:
    """DDP and FSDP wait for every parameter."""
    student, teacher, batch = case(torch.zeros(6, dtype=torch.bool))
    term = adapted(Hint())
    value = term(replace(student, logits=student.logits * torch.inf), teacher, batch)
    value.backward()
    assert value == 0
    trained = list(term.parameters())
    assert trained
    for p in trained:
        assert p.grad is not None
        assert not p.grad.any()


def test_its_state_is_enough_to_build_what_it_trains() -> None:
    student, teacher, batch = case()
    term, twin = adapted(Hint()), OnTarget(Hint())
    twin.load_state_dict(term.state_dict(), strict=True)
    assert torch.equal(twin(student, teacher, batch), term(student, teacher, batch))


def test_peers_cannot_share_what_it_trains() -> None:
    with pytest.raises(ConfigError, match=r"losses\['hint'\].*OnTarget, which trains an adaptor"):
        MutualDistillationModule({"a": make_model(), "b": make_model()}, {"hint": OnTarget(Hint())})
