"""Defects found in other libraries: each has a test here, or in the file that is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_distill.losses import (
    DIST,
    RKD,
    AttentionTransfer,
    DecoupledKD,
    LogitKD,
    ProbabilisticTransfer,
    StandardizedLogits,
    decoupled_kd,
    dist,
    logit_kd,
    probabilistic_transfer,
)
from lightning_distill.module import DistillationModule
from lightning_distill.structures import ModelOutput
from lightning_distill.teachers import ForeignTeacher
from tests.builders import make_batch, make_data, make_trainer
from tests.module.parts import make_module, supervised
from tests.verification import guards


def outputs(rows: int = 6, classes: int = 4) -> tuple[ModelOutput, ModelOutput]:
    torch.manual_seed(0)
    return tuple(ModelOutput(torch.randn(rows, classes), torch.randn(rows, 8)) for _ in range(2))  # type: ignore[return-value]


@guards(LogitKD, "T² and the weight dropped where there are no labels; a TypeError of the default arguments")
def test_defect_1_default_arguments_work_and_no_weight_drops_the_temperature() -> None:
    """Soft loss without T^2 where alpha is 0 or there are no labels; a TypeError for the defaults."""
    student, teacher = outputs()
    for term in (LogitKD(), StandardizedLogits(LogitKD()), RKD(distance=0.0), RKD(angle=0.0)):
        assert term(student, teacher, make_batch(size=6)).isfinite()
    module = DistillationModule(
        supervised().student, make_module().teacher, {"kd": LogitKD(4.0)}, {"task": 0.0, "kd": 0.9}
    )
    batch = make_batch(size=6)
    terms = module.raw_terms(student, teacher, batch)
    expected = 0.9 * logit_kd(student.logits, teacher.logits, 4.0)
    torch.testing.assert_close(module.total(terms), expected)


@guards(
    LogitKD,
    "divergence in the wrong direction, and probabilities where log-probabilities are due: negative losses",
)
def test_defect_2_the_student_is_compared_with_the_teacher_and_not_the_other_way_round() -> None:
    """KL is not symmetric, takes log-probabilities of one side only, and is never negative."""
    s, t = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 3.0]])
    p, q = t.softmax(1), s.softmax(1)
    assert logit_kd(s, t, 1.0).item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)
    assert logit_kd(s, t, 1.0).item() != pytest.approx(logit_kd(t, s, 1.0).item(), rel=1e-2)


@guards(LogitKD, "no T²: a gradient that vanishes as the temperature rises")
@pytest.mark.parametrize("term", [logit_kd, lambda s, t, T: decoupled_kd(s, t, torch.arange(8) % 5, 1, 1, T)])
def test_defect_3_the_gradient_does_not_vanish_with_the_temperature(term: object) -> None:
    s, t = torch.randn(8, 5, requires_grad=True), torch.randn(8, 5)
    norms = []
    for temperature in (4.0, 20.0):
        (g,) = torch.autograd.grad(term(s, t, temperature), s)  # type: ignore[operator]
        norms.append(float(g.norm()))
    assert norms[0] / norms[1] < 1.5  # 25 without T^2


@pytest.mark.parametrize("gap", [17.0, 120.0, 1e3])
def test_defect_4_dkd_survives_a_gap(gap: float) -> None:
    """log(softmax) is minus infinity at a gap of 120."""
    for dtype in (torch.float32, torch.float16):
        s = torch.zeros(2, 4, dtype=dtype)
        s[:, 0] = gap
        s.requires_grad_()
        value = decoupled_kd(s, torch.randn(2, 4).to(dtype), torch.tensor([1, 2]), temperature=1.0)
        value.backward()
        assert value.isfinite()
        assert s.grad is not None
        assert s.grad.isfinite().all()


def test_defect_5_dist_falls_as_the_student_follows() -> None:
    """A correlation instead of 1 minus it: 1 for an identical teacher, and 1 for the opposite."""
    t = torch.randn(16, 6)
    assert dist(t, t).item() == pytest.approx(0.0, abs=1e-5)
    assert dist(-t, t).item() > 1.5


def test_defect_10_a_teacher_may_read_more_modalities_than_the_student(tmp_path: Path) -> None:
    module = make_module()
    assert module.student.modalities == ("a",)
    assert set(module.teacher.requirements) == {"a", "b"}  # type: ignore[union-attr]
    make_trainer(tmp_path).fit(module, make_data())


@guards(AttentionTransfer, "a misspelt key that breaks every match of the user's own layers")
def test_defect_12_terms_of_any_name_find_their_layers(tmp_path: Path) -> None:
    """A misspelt key that broke every custom match."""
    terms = {"anything at all": AttentionTransfer(["encoders.a"], ["encoders.b"])}
    module = make_module(losses=terms)
    with pytest.raises(Exception, match="batch x channels x height x width"):
        make_trainer(tmp_path).fit(module, make_data())  # the layers are found; they are no maps


class Normed(nn.Module):
    """Batch normalisation and dropout, fresh from a constructor: in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_defect_14_a_teacher_from_a_constructor_does_not_drift(tmp_path: Path) -> None:
    source = make_data()
    width = next(iter(source.processors.values())).blank().shape[0]
    model = Normed()
    model.layers[0] = nn.Linear(width, 8)
    assert model.training
    before = {name: x.clone() for name, x in model.state_dict().items()}
    modality = next(iter(source.processors))
    teacher = ForeignTeacher(model, modality, num_classes=3)
    module = DistillationModule(supervised().student, teacher, {"kd": LogitKD()})
    make_trainer(tmp_path).fit(module, source)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert not any(part.training for part in model.modules())


@pytest.mark.parametrize("classes", [10, 100])
def test_defect_17_dist_at_a_zero_head(classes: int) -> None:
    s = torch.zeros(16, classes, requires_grad=True)
    DIST()(ModelOutput(s), ModelOutput(torch.randn(16, classes)), make_batch(size=16)).backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()


@guards(ProbabilisticTransfer, "a repair of NaN in place, which breaks the gradients of leaves")
def test_pkt_leaves_its_inputs_alone() -> None:
    """An in-place repair of NaN breaks autograd on leaves."""
    s = torch.zeros(4, 3, requires_grad=True)
    probabilistic_transfer(s, torch.randn(4, 3)).backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_every_defect_that_concerns_distillation_has_a_test() -> None:
    text = "".join(f.read_text() for f in Path(__file__).parent.glob("test_*.py")).lower()
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 17):
        assert f"defect_{number}_" in text or f"defect {number}" in text, number


def test_dkd_of_two_classes_has_nothing_among_the_rest() -> None:
    s, t, y = torch.randn(5, 2), torch.randn(5, 2), torch.tensor([0, 1, 0, 1, 1])
    assert decoupled_kd(s, t, y, 1.0, 8.0).item() == pytest.approx(decoupled_kd(s, t, y, 1.0, 0.0).item())
    batch = {**make_batch(size=5), "target": y}
    assert DecoupledKD()(ModelOutput(s), ModelOutput(t), batch).isfinite()  # type: ignore[arg-type]
