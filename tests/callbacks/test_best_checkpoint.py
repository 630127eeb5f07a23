"""The best checkpoint, with and without a metric."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_distill.callbacks import BestCheckpoint
from lightning_distill.module import DistillationModule
from tests.builders import make_data, make_model, make_trainer


def fit(folder: Path, checkpoint: BestCheckpoint, **options: object) -> None:
    trainer = make_trainer(folder, max_epochs=4, enable_checkpointing=True, callbacks=[checkpoint], **options)
    trainer.fit(DistillationModule(make_model()), datamodule=make_data())


def step(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


def test_a_logged_metric_is_used_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    fit(tmp_path, BestCheckpoint(tmp_path, "best", monitor="val/loss", mode="max"))
    assert step(tmp_path / "best.ckpt") < 16
    assert not [w for w in recwarn if "nothing logs" in str(w.message)]


def test_the_warning_names_the_nearest_metric(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"'val/accurcy'.*did you mean 'val/accuracy'\?"):
        fit(tmp_path, BestCheckpoint(tmp_path, "best", monitor="val/accurcy", mode="max"))
    assert step(tmp_path / "best.ckpt") == 16


def test_a_metric_of_a_later_epoch_is_waited_for(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    fit(tmp_path, BestCheckpoint(tmp_path, "best", monitor="val/loss"), check_val_every_n_epoch=3)
    assert step(tmp_path / "best.ckpt") == 12
    assert not [w for w in recwarn if "nothing logs" in str(w.message)]
