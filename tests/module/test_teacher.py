"""The teacher stays as it is and out of everything, whatever the user calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_distill.clipping import ValueClip
from lightning_distill.losses import LogitKD
from lightning_distill.model import MultimodalModel
from lightning_distill.teachers import FrozenTeacher
from tests.builders import Notebook, VectorSource, make_data, make_model, make_trainer, same_bits, weights_of
from tests.module.parts import Each, Follow, Spy, distilling, make_module, supervised


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """Every tensor anywhere in nested containers."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors_in(value)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from tensors_in(value)


@pytest.mark.row("S3")
def test_teacher_is_bit_identical_after_fit_whatever_the_user_calls(tmp_path: Path) -> None:
    model = make_model()
    module = make_module(model, clip_rule=ValueClip(0.1))

    def careless() -> None:
        module.train()
        model.train()
        model.encoders["a"].train()
        model.requires_grad_(True)

    before = weights_of(model)
    make_trainer(tmp_path, max_epochs=2, callbacks=[Each(careless)]).fit(module, make_data())
    assert any("running_mean" in name for name in before)
    for name, tensor in model.state_dict().items():
        assert same_bits(tensor, before[name]), name
    assert all(p.grad is None for p in model.parameters())


def test_student_learns_from_the_teacher_alone(tmp_path: Path) -> None:
    source = VectorSource(unlabelled=range(28))
    module = make_module(weights={"task": 0.0}, clip_rule=None)
    trainer = make_trainer(tmp_path, max_epochs=12)
    trainer.validate(module, make_data(source), verbose=False)
    before = float(trainer.callback_metrics["val/kd"])
    trainer.fit(module, make_data(source))
    assert float(trainer.callback_metrics["val/kd"]) < 0.5 * before


@pytest.mark.row("S7")
def test_teacher_is_in_no_optimizer_checkpoint_or_clip_rule(tmp_path: Path) -> None:
    model, spy = make_model(), Spy()
    module = make_module(model, losses={"kd": LogitKD(), "hint": Follow()}, clip_rule=spy)
    trainer = make_trainer(tmp_path)
    trainer.fit(module, make_data())
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    theirs = {t.data_ptr() for t in model.state_dict().values()}
    ours = {p.data_ptr() for p in module.parameters()}
    stepped = {p.data_ptr() for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert not theirs & (ours | {b.data_ptr() for b in module.buffers()} | stepped | set(sum(spy.calls, ())))
    assert stepped == ours == set(spy.calls[0])  # and everything else is: student and adaptors
    assert all(part not in set(module.modules()) for part in model.modules())
    values = [t for t in model.state_dict().values() if t.is_floating_point() and t.numel() > 1]
    values = [t for t in values if t.std() > 0]
    checkpoint = torch.load(tmp_path / "c.ckpt", weights_only=True)
    assert not any("teacher" in name for name in checkpoint["state_dict"])
    for saved in tensors_in(checkpoint):
        assert not any(saved.shape == t.shape and torch.equal(saved, t) for t in values)
    assert any(name.startswith("terms.losses.hint") for name in checkpoint["state_dict"])


def test_teacher_is_not_asked_by_predict(tmp_path: Path) -> None:
    module, data = make_module(), make_data()
    data.setup("fit")
    (batch, *_) = data.val_dataloader()
    module.eval()
    answer = module.predict_step(batch, 0)
    assert torch.equal(answer["sample_id"], batch["sample_id"])
    assert torch.equal(answer["embedding"], module.student(batch).embedding)
    torch.testing.assert_close(answer["probabilities"].sum(dim=1), torch.ones(len(batch["target"])))
    found = make_trainer(tmp_path).predict(module, data.val_dataloader())
    assert found is not None
    assert torch.equal(torch.cat([f["sample_id"] for f in found]), torch.arange(5028, 5041))


def test_without_a_teacher_it_is_supervised_training(tmp_path: Path) -> None:
    module, notebook = supervised(), Notebook()
    trainer = make_trainer(tmp_path, max_epochs=12, logger=notebook)
    trainer.fit(module, make_data(VectorSource(unlabelled=[1, 5, 9])))
    losses = notebook.series("val/task")
    assert losses[-1] < 0.6 * losses[0]
    assert "val/agreement" not in trainer.callback_metrics


class Follower(FrozenTeacher):
    """Notes when it is told of a step."""

    def __init__(self, model: MultimodalModel) -> None:
        super().__init__(model)
        self.told: list[int] = []

    def after_step(self, student: MultimodalModel, step: int) -> None:
        self.told.append(step)


def test_a_teacher_follows_in_a_second_training_too(tmp_path: Path) -> None:
    teacher = Follower(make_model())
    module = distilling(teacher)
    for _ in range(2):
        make_trainer(tmp_path, accumulate_grad_batches=2).fit(module, make_data(batch_size=4))
    assert teacher.told == [1, 2, 3, 4] * 2  # of 7 batches
