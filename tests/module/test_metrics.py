"""Metrics of a whole evaluation set against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.data import MultimodalDataModule
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import UNLABELLED
from tests.builders import Notebook, VectorSource, make_data, make_model, make_trainer
from tests.metrics_reference import accuracy, calibration_error, macro_f1, probabilities
from tests.module.parts import make_module


def all_of(model: MultimodalModel, data: MultimodalDataModule) -> tuple[Any, Any]:
    """Logits and targets of the whole evaluation set, from one big batch."""
    whole = make_data(data.source, batch_size=1000)
    whole.setup("validate")
    (batch,) = whole.val_dataloader()
    with torch.no_grad():
        return model.eval()(batch).logits.double().numpy(), batch["target"].numpy()


@pytest.mark.row("G8")
@pytest.mark.parametrize("unlabelled", [[], [28, 33, 40], [*range(28, 36), 40]])
def test_metrics_are_those_of_the_whole_set(tmp_path: Path, unlabelled: list[int]) -> None:
    """Batches of 8 and 5, rows without a label, once a batch of nothing else."""
    data, model = make_data(VectorSource(unlabelled=unlabelled)), make_model()
    module = make_module(model, weights={"task": 0.5, "kd": 0.5})
    trainer = make_trainer(tmp_path)
    trainer.validate(module, data, verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    logits, target = all_of(module.student, data)
    theirs, _ = all_of(model, data)
    kept = target != UNLABELLED
    p, q = probabilities(theirs / 4), probabilities(logits / 4)
    rows = np.arange(kept.sum())
    expected = {
        "val/accuracy": accuracy(logits[kept], target[kept]),
        "val/macro_f1": macro_f1(logits[kept], target[kept]),
        "val/calibration_error": calibration_error(logits[kept], target[kept]),
        "val/agreement": float(np.mean(logits.argmax(axis=1) == theirs.argmax(axis=1))),
        "val/task": -np.mean(np.log(probabilities(logits[kept])[rows, target[kept]])),
        "val/kd": 16 * np.mean(np.sum(p * np.log(p / q), axis=1)),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_metrics_start_anew_each_epoch(tmp_path: Path) -> None:
    data, module, notebook = make_data(), make_module(), Notebook()
    trainer = make_trainer(tmp_path, logger=notebook, max_epochs=3)
    trainer.fit(module, data)
    last = notebook.series("val/accuracy")[-1]
    trainer.validate(module, data, verbose=False)
    assert float(trainer.callback_metrics["val/accuracy"]) == pytest.approx(last)
    logits, target = all_of(module.student, data)
    assert last == pytest.approx(accuracy(logits, target))


def test_evaluation_without_any_label(tmp_path: Path) -> None:
    """Nothing to say about accuracy then, but much about the teacher; and no crash in the sanity check."""
    trainer = make_trainer(tmp_path, num_sanity_val_steps=2)
    trainer.fit(make_module(), make_data(VectorSource(unlabelled=range(28, 41))))
    found = set(trainer.callback_metrics)
    assert {"val/kd", "val/agreement", "val/loss"} <= found
    assert not {"val/accuracy", "val/macro_f1", "val/calibration_error", "val/task"} & found
