"""Terms that read layers of student and teacher, and what they build from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.losses import AdaptedLoss
from lightning_distill.module import DistillationModule
from lightning_distill.schedules import CosineRamp, LinearWarmup
from lightning_distill.structures import Batch, ModelOutput
from tests.builders import Notebook, make_data, make_model, make_trainer, same_bits, weights_of
from tests.module.parts import ADAM, Steps, make_module

STUDENT, TEACHER = "encoders.a.linear", "encoders.b.norm"


class Project(AdaptedLoss):
    """Squared distance of a layer of the teacher from a projection of one of the student."""

    def __init__(self, student: str = STUDENT, teacher: str = TEACHER) -> None:
        super().__init__([student], [teacher])

    def build(self, student: Any, teacher: Any) -> None:
        self.project = nn.Linear(student[0][-1], teacher[0][-1])

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        ((s, t),) = self.pairs(student, teacher, batch)
        return (self.project(s) - t).square().mean()


def build(seed: int = 5, **options: Any) -> DistillationModule:
    seed_everything(seed, verbose=False)
    return make_module(**({"losses": {"project": Project()}} | options))


def test_adaptors_reach_optimizer_and_checkpoint_and_learn(tmp_path: Path) -> None:
    module, steps = build(), Steps()
    assert not hasattr(module.terms.losses["project"], "project")
    trainer = make_trainer(tmp_path, callbacks=[steps])
    trainer.fit(module, make_data())
    adaptor = module.terms.losses["project"].project
    assert adaptor.weight.shape == (8, 8)
    stepped = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert {id(adaptor.weight), id(adaptor.bias)} <= stepped
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    saved = torch.load(tmp_path / "c.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(saved["terms.losses.project.project.weight"], adaptor.weight)
    assert steps.weights[0].shape == steps.weights[-1].shape
    seed_everything(5, verbose=False)
    assert not torch.equal(adaptor.weight, nn.Linear(8, 8).weight)


def test_a_checkpoint_alone_is_enough(tmp_path: Path) -> None:
    """No dry run: shapes are in the state dict."""
    module = build()
    trainer = make_trainer(tmp_path)
    trainer.fit(module, make_data())
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    fresh = build(seed=6)
    fresh.load_state_dict(torch.load(tmp_path / "c.ckpt", weights_only=True)["state_dict"], strict=True)
    expected = weights_of_tensors(module)
    assert all(same_bits(x, expected[name]) for name, x in weights_of_tensors(fresh).items())
    assert weights_of_tensors(fresh).keys() == expected.keys()


def weights_of_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in module.state_dict().items() if isinstance(t, Tensor)}


def test_resume_is_exact(tmp_path: Path) -> None:
    def run(epochs: int, resume: Path | None = None) -> DistillationModule:
        module = build()
        trainer = make_trainer(tmp_path, max_epochs=epochs)
        trainer.fit(module, make_data(), ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module

    run(1)
    resumed, whole = run(2, tmp_path / "1.ckpt"), run(2)
    expected = weights_of_tensors(whole)
    assert all(same_bits(x, expected[name]) for name, x in weights_of_tensors(resumed).items())


@pytest.mark.parametrize("workers", [0, 1])
def test_the_dry_run_leaves_no_trace(tmp_path: Path, workers: int) -> None:
    """A term of weight 0 that reads layers does not change the student."""
    plain = make_student_of(build(losses={}), tmp_path, 0)
    looked = build(weights={"project": 0.0})
    assert all(
        same_bits(a, b) for a, b in zip(plain, make_student_of(looked, tmp_path, workers), strict=True)
    )


def make_student_of(module: DistillationModule, folder: Path, workers: int) -> list[Tensor]:
    make_trainer(folder).fit(module, make_data(num_workers=workers))
    return list(weights_of(module.student).values())


def test_evaluation_alone_can_read_layers(tmp_path: Path) -> None:
    (values,) = make_trainer(tmp_path).validate(build(), make_data(), verbose=False)
    assert values["val/project"] > 0


@pytest.mark.row("S2")
@pytest.mark.parametrize(
    ("term", "words"),
    [
        (Project(student="encoders.a.liner"), ["of the student", "did you mean 'encoders.a.linear'?"]),
        (Project(teacher="encoders.c.norm"), ["of the teacher", "did you mean 'encoders.b.norm'?"]),
        (Project(student="encoders"), ["did not run", "whose own forward is called"]),
        (Project(teacher="features.z"), ["'features.z' of the teacher"]),
    ],
)
def test_a_layer_that_is_not_there(term: Project, words: list[str], tmp_path: Path) -> None:
    module = build(losses={"project": term})
    with pytest.raises(ConfigError) as caught:
        make_trainer(tmp_path).fit(module, make_data())
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_rows_without_the_modality_are_left_out() -> None:
    term = Project(student="features.a", teacher="features.b")
    s, t = torch.randn(4, 8), torch.randn(4, 8)
    term.adapt(((8,),), ((8,),))
    student, teacher = ModelOutput(s, features={"a": s}), ModelOutput(t, features={"b": t})
    batch: Any = {"present": {"a": torch.tensor([1, 1, 0, 1]) > 0, "b": torch.tensor([1, 0, 1, 1]) > 0}}
    ((ours, theirs),) = term.pairs(student, teacher, batch)
    assert torch.equal(ours, s[[0, 3]])
    assert torch.equal(theirs, t[[0, 3]])


def test_weights_follow_their_schedule(tmp_path: Path) -> None:
    notebook = Notebook()
    weights: dict[str, Any] = {"task": CosineRamp(1.0, 0.5, 0, 8), "kd": LinearWarmup(2.0, epochs=2)}
    module = make_module(weights=weights)
    make_trainer(tmp_path, max_epochs=3, logger=notebook).fit(module, make_data())
    raw, weighted = notebook.series("train/kd"), notebook.series("train/kd_weighted")
    ratios = [w / r for r, w in zip(raw, weighted, strict=True)]
    assert ratios == pytest.approx([1.0] * 4 + [2.0] * 8)
    task = [
        w / r for r, w in zip(*(notebook.series(f"train/task{x}") for x in ("", "_weighted")), strict=True)
    ]
    assert task[0] == pytest.approx(1.0)
    assert task[-1] == pytest.approx(0.5)


def test_the_first_step_tells_the_size_of_every_term(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The gradients are those of the weighted terms on the student."""
    caplog.set_level("INFO")
    module = build(weights={"task": 0.5, "project": 2.0})
    make_trainer(tmp_path, max_epochs=2).fit(module, make_data())
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith(("terms at", "  "))]
    assert len(lines) == 3
    task, project = (line.split() for line in lines[1:])
    assert (task[0], project[0]) == ("task", "project")
    assert (float(task[2]), float(project[2])) == (0.5, 2.0)
    assert float(task[3]) == pytest.approx(0.5 * float(task[1]), rel=1e-3)
    share = float(project[4]) / (float(project[4]) + float(task[4]))
    assert project[5] == f"{share:.0%}"


def test_a_term_that_does_not_reach_the_student_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Aloof(Project):
        def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
            ((s, t),) = self.pairs(student, teacher, batch)
            return (self.project(s.detach()) - t).square().mean()

    caplog.set_level("INFO")
    make_trainer(tmp_path).fit(build(losses={"aloof": Aloof()}), make_data())
    assert "no gradient on the student comes from aloof" in caplog.text


def test_old_modules_without_layers_are_not_run_dry(tmp_path: Path) -> None:
    model = make_model()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    module = make_module(teacher=model, optimizer=ADAM)
    make_trainer(tmp_path, limit_val_batches=0).fit(module, make_data())
    assert len(calls) == 4
