"""What is logged, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from lightning_distill.clipping import ValueClip
from lightning_distill.feature_clipping import HardClip
from lightning_distill.losses import LogitKD
from lightning_distill.structures import ModelOutput
from tests.builders import Notebook, make_data, make_model, make_trainer
from tests.module.parts import Follow, make_module


def test_every_term_is_logged_raw_and_weighted(tmp_path: Path) -> None:
    notebook, weights = Notebook(), {"task": 0.25, "kd": 2.0, "hint": 0.0}
    student = make_model(("a",), feature_clip=HardClip(0.5))
    module = make_module(
        student=student,
        losses={"kd": LogitKD(), "hint": Follow()},
        weights=weights,
        clip_rule=ValueClip(1e-3),
    )
    make_trainer(tmp_path, logger=notebook).fit(module, make_data())
    terms = {name: notebook.series(f"train/{name}") for name in weights}
    assert all(len(values) == 4 for values in terms.values())
    for name, weight in weights.items():
        weighted = notebook.series(f"train/{name}_weighted")
        assert weighted == pytest.approx([weight * value for value in terms[name]])
    total = [sum(weights[n] * terms[n][i] for n in weights) for i in range(4)]
    assert notebook.series("train/loss") == pytest.approx(total)
    assert len(notebook.series("clip/clipped_share/a")) == len(notebook.series("clip/norm_before/a")) == 4
    assert max(notebook.series("clip/clipped_share/a")) > 0
    assert all(0 <= share <= 1 for share in notebook.series("student/saturated_share"))
    wanted = {"task", "kd", "hint", "loss", "accuracy", "macro_f1", "calibration_error", "agreement"}
    assert {f"val/{name}" for name in wanted} <= {name for _, row in notebook.rows for name in row}


@pytest.mark.parametrize(("every", "accumulate"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_logged_terms_are_means_since_the_last_time(tmp_path: Path, every: int, accumulate: int) -> None:
    module, notebook, seen = make_module(), Notebook(), []
    raw_terms = module.raw_terms

    def listening(student: ModelOutput, *rest: Any) -> dict[str, Tensor]:
        terms = raw_terms(student, *rest)
        if student.logits.requires_grad:
            seen.append(terms["kd"].item())
        return terms

    module.raw_terms = listening  # type: ignore[method-assign]
    trainer = make_trainer(
        tmp_path,
        logger=notebook,
        max_epochs=2,
        log_every_n_steps=every,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
    )
    trainer.fit(module, make_data(batch_size=5))  # 6 batches an epoch
    size = every * accumulate
    groups = [seen[start : start + size] for start in range(0, len(seen) - size + 1, size)]
    assert notebook.series("train/kd") == pytest.approx([np.mean(group) for group in groups])
    steps = [step for step, row in notebook.rows if "train/kd" in row]
    assert steps == [every * (i + 1) - 1 for i in range(len(groups))]


def test_logging_can_be_switched_off(tmp_path: Path) -> None:
    notebook, module = Notebook(), make_module(clip_rule=ValueClip(0.1))
    make_trainer(tmp_path, logger=notebook, log_every_n_steps=0).fit(module, make_data())
    assert not notebook.series("train/kd")
    assert not module._log._pending


def test_a_second_training_logs_nothing_of_the_first(tmp_path: Path) -> None:
    """Of the first, two of seven steps are never logged."""
    module, notebook = make_module(), Notebook()
    make_trainer(tmp_path, logger=Notebook(), log_every_n_steps=5).fit(module, make_data(batch_size=4))
    seen, raw_terms = [], module.raw_terms

    def listening(student: ModelOutput, *rest: Any) -> dict[str, Tensor]:
        terms = raw_terms(student, *rest)
        if student.logits.requires_grad:
            seen.append(terms["kd"].item())
        return terms

    module.raw_terms = listening  # type: ignore[method-assign]
    trainer = make_trainer(tmp_path, logger=notebook, log_every_n_steps=5)
    trainer.fit(module, make_data(batch_size=4))
    assert notebook.series("train/kd") == pytest.approx([np.mean(seen[:5])])
