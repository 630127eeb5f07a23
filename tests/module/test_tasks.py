"""Every task through the module: loss, weights, metrics, agreement, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses import LogitKD, MultilabelKD, RegressionKD
from lightning_distill.module import DistillationModule
from lightning_distill.tasks import Classification, Multilabel, Regression, Task
from lightning_distill.teachers import FrozenTeacher
from tests.builders import Notebook, VectorSource, make_data, make_model, make_trainer
from tests.metrics_reference import probabilities
from tests.module.parts import Follow, TargetSource, make_module, numbers, several, supervised

TASKS: dict[str, tuple[Task, Any, str]] = {
    "multilabel": (Multilabel(), several(), "micro_f1"),
    "regression": (Regression(), numbers(), "r2"),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_learnt(tmp_path: Path, name: str) -> None:
    task, target, metric = TASKS[name]
    notebook, teacher = Notebook(), FrozenTeacher(make_model())
    module = supervised(task=task, teacher=teacher, losses={"hint": IdentityHint()}, weights={"hint": 0.0})
    make_trainer(tmp_path, max_epochs=25, logger=notebook).fit(module, make_data(TargetSource(target)))
    losses, values = notebook.series("val/task"), notebook.series(f"val/{metric}")
    assert losses[-1] < 0.5 * losses[0]
    assert values[-1] > max(0.5, values[0])
    logged = {key for _, row in notebook.rows for key in row}
    assert {f"val/{key}" for key in (*task.metrics(3), task.agreement_name)} <= logged
    assert ("val/agreement" in logged) == (task.agreement_name == "agreement")


class IdentityHint(Follow):
    """Compares embeddings of one width, so it asks nothing of the task."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(16, 16)


def test_agreement_is_with_the_teacher_over_all_samples(tmp_path: Path) -> None:
    model, data = make_model(), make_data(TargetSource(numbers()))
    module = supervised(task=Regression(), teacher=FrozenTeacher(model))
    trainer = make_trainer(tmp_path)
    trainer.validate(module, data, verbose=False)
    whole = make_data(data.source, batch_size=1000)
    whole.setup("validate")
    (batch,) = whole.val_dataloader()
    with torch.no_grad():
        difference = (module.eval()(batch).logits - model.eval()(batch).logits).abs().mean().item()
    assert float(trainer.callback_metrics["val/teacher_mae"]) == pytest.approx(difference, rel=1e-5)


def validated(tmp_path: Path, weight: NDArray[np.float32]) -> tuple[dict[str, float], Any, Any]:
    """What is logged; logits and targets of the validation samples."""
    source = TargetSource(VectorSource(unlabelled=[30, 33]).samples.target, weight.tolist())
    module, trainer = make_module(), make_trainer(tmp_path)
    trainer.validate(module, make_data(source), verbose=False)
    whole = make_data(source, batch_size=1000)
    whole.setup("validate")
    (batch,) = whole.val_dataloader()
    with torch.no_grad():
        logits = module.eval()(batch).logits.double().numpy()
    return {k: float(v) for k, v in trainer.callback_metrics.items()}, logits, batch["target"].numpy()


def test_weights_weigh_the_task_loss_only(tmp_path: Path) -> None:
    weight = np.linspace(0.2, 3, 41, dtype=np.float32)
    found, logits, target = validated(tmp_path, weight)
    plain, again, _ = validated(tmp_path, np.ones(41, np.float32))
    kept = np.flatnonzero(target >= 0)
    entropy = -np.log(probabilities(logits[kept])[np.arange(len(kept)), target[kept]])
    expected = np.average(entropy, weights=weight[28:][kept])
    assert found["val/task"] == pytest.approx(expected, rel=1e-5)
    assert np.average(entropy) != pytest.approx(expected, rel=1e-3)
    assert found["val/accuracy"] == pytest.approx(np.mean(logits[kept].argmax(1) == target[kept]))
    assert plain["val/task"] != pytest.approx(found["val/task"])
    assert logits.shape == again.shape


def test_samples_of_weight_0_teach_nothing(tmp_path: Path) -> None:
    weight = np.ones(41, np.float32)
    weight[:28] = 0
    module = supervised(student=make_model(), optimizer=torch.optim.SGD)
    before = [p.detach().clone() for p in module.parameters()]
    source = TargetSource(VectorSource().samples.target, weight.tolist())
    make_trainer(tmp_path).fit(module, make_data(source))
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize(
    ("task", "target", "fitting"),
    [
        (Classification(), several(), "Multilabel"),
        (Classification(), numbers(), "Regression"),
        (Multilabel(), numbers(), "Regression"),
        (Regression(), np.arange(41) % 3, "Classification"),
    ],
)
def test_targets_of_another_kind_are_refused_before_the_first_step(
    tmp_path: Path, task: Task, target: Any, fitting: str
) -> None:
    trainer = make_trainer(tmp_path)
    with pytest.raises(ConfigError, match=rf"class_path: lightning_distill\.tasks\.{fitting}}}"):
        trainer.fit(supervised(task=task), make_data(TargetSource(target)))
    assert trainer.global_step == 0


@pytest.mark.parametrize("task", [Multilabel(), Regression()])
def test_a_term_over_classes_needs_exclusive_ones(task: Task) -> None:
    options: dict[str, Any] = {"student": make_model(), "teacher": FrozenTeacher(make_model()), "task": task}
    with pytest.raises(ConfigError, match=r"losses\['kd'\].*LogitKD with the task.*remove 'kd'"):
        DistillationModule(**options, losses={"kd": LogitKD()})
    fitting = {"Multilabel": MultilabelKD(), "Regression": RegressionKD()}[type(task).__name__]
    DistillationModule(**options, losses={"hint": Follow(), "kd": fitting})
    with pytest.raises(ConfigError, match="MultilabelKD for labels"):
        DistillationModule(**options | {"task": Classification()}, losses={"kd": MultilabelKD()})


def test_one_output_and_no_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 for the task Classification"):
        DistillationModule(make_model(classes=1))
    DistillationModule(make_model(classes=1), task=Regression())


@pytest.mark.parametrize("name", TASKS)
def test_predict_gives_what_the_task_says(name: str) -> None:
    task, target, _ = TASKS[name]
    module, data = supervised(task=task).eval(), make_data(TargetSource(target))
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    found = module.predict_step(batch, 0)
    expected: dict[str, Tensor] = task.predict(module(batch).logits)
    assert set(found) == {"sample_id", "embedding", *expected}
    assert all(torch.equal(found[key], value) for key, value in expected.items())
