"""A gradient balancer gets what it asks for, and acts before the clip rule."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from lightning_distill.balancing import UncertaintyBalancer
from lightning_distill.clipping import ValueClip
from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping import BoundaryClip
from lightning_distill.gradient_balancing import GBlending, GradientBalancer, MMPareto, PCGrad, StudentView
from lightning_distill.gradients import Gradients
from lightning_distill.losses import LogitKD
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from tests.builders import CLASSES, Notebook, VectorSource, make_data, make_model, make_trainer
from tests.module.clip_cases import make_student
from tests.module.parts import SGD, Steps, make_module
from tests.processes import needs_fork, run_apart


class AsTheyAre(GradientBalancer):
    """Adds no term."""

    def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
        return dict(weighted)


class Compare(AsTheyAre):
    """Notes by how much the sum of the terms' gradients differs from the gradient, and edits nothing."""

    per_term_gradients = True

    def __init__(self) -> None:
        super().__init__()
        self.names: list[tuple[str, ...]] = []
        self.gaps: list[float] = []
        self.sizes: list[float] = []

    def balance(
        self, gradients: Gradients, by_term: Mapping[str, Sequence[Tensor | None]]
    ) -> dict[str, Tensor]:
        self.names.append(tuple(by_term))
        for i, grad in enumerate(gradients.local):
            parts = [found[i] for found in by_term.values()]
            whole = sum((x for x in parts if x is not None), torch.zeros_like(grad))
            self.gaps.append(float((whole - grad).abs().max()))
            self.sizes.append(float(grad.abs().max()))
        return {"seen": torch.tensor(float(len(gradients)))}


def balanced(balancer: GradientBalancer, **options: Any) -> DistillationModule:
    return make_module(student=make_student(), gradient_balancer=balancer, optimizer=SGD, **options)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_the_terms_gradients_add_up(tmp_path: Path, accumulate: int, precision: Any) -> None:
    balancer, options = Compare(), dict[str, Any]()
    if precision == "16-mixed":
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        options["plugins"] = [MixedPrecision(precision, "cpu", scaler)]
    trainer = make_trainer(tmp_path, accumulate_grad_batches=accumulate, **options)
    trainer.fit(balanced(balancer), make_data(batch_size=4))
    assert balancer.names == [("task", "kd")] * trainer.global_step
    tolerance = 1e-6 if precision == "32-true" else 1e-3
    assert max(balancer.gaps) < tolerance * max(balancer.sizes) + 1e-7


class Write(Callback):
    """A file a rank."""

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        found = pl_module.gradient_balancer
        gap, size = max(found.gaps), max(found.sizes)
        Path(trainer.default_root_dir, f"rank{trainer.global_rank}.json").write_text(json.dumps([gap, size]))


def two_ranks(folder: Path) -> None:
    torch.set_num_threads(1)
    trainer = make_trainer(folder, devices=2, strategy="ddp_fork", callbacks=[Write()])
    trainer.fit(balanced(Compare(), weights={"kd": 0.5}), make_data(batch_size=4))


@needs_fork
def test_the_terms_gradients_add_up_over_two_processes(tmp_path: Path) -> None:
    run_apart(two_ranks, tmp_path)
    for rank in (0, 1):
        gap, size = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert size > 0.01
        assert gap < 1e-6


class Enlarge(AsTheyAre):
    """So that a clip afterwards shows."""

    def balance(
        self, gradients: Gradients, by_term: Mapping[str, Sequence[Tensor | None]]
    ) -> dict[str, Tensor]:
        assert not by_term
        for grad in gradients.under("encoders.a").local:
            grad.add_(1e3)
        return {}


def test_it_acts_before_the_clip_rule(tmp_path: Path) -> None:
    steps = Steps()
    module = balanced(Enlarge(), clip_rule=ValueClip(1e-3))
    make_trainer(tmp_path, callbacks=[steps]).fit(module, make_data())
    assert max(steps.sizes()) == pytest.approx(1e-4, rel=1e-3)


def test_without_a_rule_the_trainers_clip_acts_after_it(tmp_path: Path) -> None:
    steps = Steps()
    trainer = make_trainer(
        tmp_path, callbacks=[steps], gradient_clip_val=1e-3, gradient_clip_algorithm="value"
    )
    trainer.fit(balanced(Enlarge()), make_data())
    assert max(steps.sizes()) == pytest.approx(1e-4, rel=1e-3)


class Look(GradientBalancer):
    """Checks what it is shown."""

    reads_validation = True

    def __init__(self) -> None:
        super().__init__()
        self.views: list[tuple[bool, int, int]] = []
        self.epochs = 0

    def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
        assert list(weighted) == ["task", "kd"]
        self.views.append((self.training, view.step, view.epoch))
        both = view.answer_from(tuple(view.features))
        torch.testing.assert_close(both, view.logits)
        for modality, there in view.present.items():
            alone = view.answer_from((modality,))
            rows = there & view.labelled
            by_hand = nn.functional.cross_entropy(alone[rows], view.target[rows]) if rows.any() else 0.0
            assert float(view.task_loss(alone, there)) == pytest.approx(float(by_hand), rel=1e-5)
        return {**weighted, "unimodal/a": view.task_loss(view.answer_from(("a",)), view.present["a"])}

    def end_epoch(self, average: Callable[[Tensor], Tensor]) -> None:
        assert float(average(torch.tensor(2.0))) == 2.0
        self.epochs += 1


def test_what_it_is_shown(tmp_path: Path) -> None:
    """In training and in validation, with absent modalities and missing labels; a term of its own counts."""
    balancer = Look()
    module = balanced(balancer)
    data = make_data(VectorSource(unlabelled=[0, 9], absent={"a": [1, 2], "b": [5]}), batch_size=7)
    make_trainer(tmp_path, max_epochs=2).fit(module, data)
    training = [(step, epoch) for training, step, epoch in balancer.views if training]
    assert training == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1), (7, 1)]
    assert len([1 for training, *_ in balancer.views if not training]) == 4
    assert balancer.epochs == 2


@pytest.mark.parametrize("make", [MMPareto, PCGrad, GBlending])
def test_those_that_need_most_train_a_student_from_a_teacher(tmp_path: Path, make: Any) -> None:
    notebook = Notebook()
    module = balanced(make(), clip_rule=ValueClip(0.1))
    before = Steps.flat(module.student)
    data = make_data(VectorSource(unlabelled=range(0, 28, 5), absent={"a": range(0, 28, 7)}))
    trainer = make_trainer(tmp_path, logger=notebook, log_every_n_steps=1, max_epochs=3)
    trainer.fit(module, data)
    assert Steps.flat(module.student).isfinite().all()
    assert not torch.equal(Steps.flat(module.student), before)
    assert all(math.isfinite(value) for _, row in notebook.rows for value in row.values())
    own = {name for _, row in notebook.rows for name in row if name.startswith("train/unimodal/")}
    assert own == (set() if make is PCGrad else {"train/unimodal/a", "train/unimodal/b"})


def test_two_balancers_are_refused() -> None:
    with pytest.raises(ConfigError, match="one of the two"):
        make_module(balancer=UncertaintyBalancer, gradient_balancer=PCGrad())


@pytest.mark.parametrize("scale", [64.0, 4096.0])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_boundary_is_told_of_loss_scale_and_accumulation(
    tmp_path: Path, scale: float, accumulate: int
) -> None:
    """What clips the gradient of one sample's loss clips it whatever the loss is multiplied with."""

    def train(**options: Any) -> Tensor:
        torch.manual_seed(2)
        clips: Any = {"a": BoundaryClip(0.02)}
        encoders: Any = dict(make_student().encoders.items())
        student = MultimodalModel(encoders, len(CLASSES), modality_clips=clips)
        module = DistillationModule(student, optimizer=SGD)
        make_trainer(tmp_path, **options).fit(module, make_data(batch_size=14))
        return Steps.flat(student)

    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    plain = train(accumulate_grad_batches=accumulate)
    scaled = train(accumulate_grad_batches=accumulate, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    torch.testing.assert_close(scaled, plain, rtol=0, atol=2e-3)


def test_terms_are_told_apart_at_the_fused_feature(tmp_path: Path) -> None:
    notebook = Notebook()
    module = make_module(student=make_model(("a",)), losses={"kd": LogitKD(), "more": LogitKD()})
    make_trainer(tmp_path, logger=notebook, log_every_n_steps=1).fit(module, make_data())
    shares = [notebook.series(f"gradient_share/{name}") for name in ("task", "kd", "more")]
    assert len(shares[0]) == 4
    assert [sum(values) for values in zip(*shares, strict=True)] == pytest.approx([1.0] * 4, rel=1e-4)
    assert all(-1 <= value <= 1 for value in notebook.series("gradient_cosine/kd"))
