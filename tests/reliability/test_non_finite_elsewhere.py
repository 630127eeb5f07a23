"""What is not finite in modules of others, and in gradients that no rule could clip."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_distill.callbacks import ClipGradients, Distill
from lightning_distill.clipping import PropagateNonFinite, ValueClip
from lightning_distill.errors import NonFiniteError
from lightning_distill.losses import LogitKD
from lightning_distill.structures import Batch, ModelOutput
from tests.builders import make_data, make_trainer, same_bits, weights_of
from tests.callbacks.foreign import Plain, loader
from tests.module.parts import supervised
from tests.reliability.injections import Last


class Spoiled(Plain):
    """Its loss, or only its gradient, is NaN in one batch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if batch_idx != 2:
            return loss
        return loss * torch.nan if self.kind == "loss" else loss + ((loss - loss).abs()).sqrt()


def test_a_loss_that_is_not_finite_in_a_module_of_others(tmp_path: Path) -> None:
    teacher = nn.Linear(6, 3)
    last, module = Last(), Spoiled("loss")
    distill = Distill(teacher, {"kd": LogitKD()}, logits="head")
    with pytest.raises(
        NonFiniteError, match=r"epoch 0, step 2: found loss nan from terms \{'task': nan\}; batch 2,"
    ):
        make_trainer(tmp_path, callbacks=[distill, last]).fit(module, loader())
    now = dict(module.named_parameters())
    assert all(same_bits(old, now[name].detach()) for name, old in last.weights.items())


def test_a_gradient_that_is_not_finite_in_a_module_of_others(tmp_path: Path) -> None:
    last, module = Last(), Spoiled("gradient")
    with pytest.raises(NonFiniteError, match=r"epoch 0, step 2: .*gradients of '.*NaN"):
        make_trainer(tmp_path, callbacks=[ClipGradients(ValueClip(0.1)), last]).fit(module, loader())
    now = dict(module.named_parameters())
    assert all(same_bits(old, now[name].detach()) for name, old in last.weights.items())


def test_who_wants_to_let_it_pass_says_so(tmp_path: Path) -> None:
    module = Spoiled("gradient")
    make_trainer(tmp_path, callbacks=[ClipGradients(PropagateNonFinite(ValueClip(0.1)))]).fit(
        module, loader()
    )
    assert any(x.isnan().any() for x in weights_of(module).values())


@pytest.mark.parametrize("bad", [False, True])
def test_a_sparse_gradient_is_looked_at_where_nobody_edits(tmp_path: Path, bad: bool) -> None:
    module = supervised(optimizer=partial(torch.optim.SGD, lr=0.1))
    module.student.table = nn.Embedding(3, 3, sparse=True)
    original = module.raw_terms

    def raw_terms(student: ModelOutput, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        terms = original(student, teacher, batch)
        used = module.student.table(batch["target"]).mean()  # type: ignore[operator]
        return {name: x + (torch.sqrt((used - used).abs()) if bad else used) for name, x in terms.items()}

    module.raw_terms = raw_terms  # type: ignore[method-assign]
    trainer = make_trainer(tmp_path)
    if not bad:
        trainer.fit(module, make_data())
        assert trainer.global_step == 4
        return
    with pytest.raises(NonFiniteError, match=r"'table.weight' \("):
        trainer.fit(module, make_data())
