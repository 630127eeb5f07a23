"""Metrics of each domain, against a count by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightning_distill import DistillationModule
from lightning_distill.data import MultimodalDataModule
from lightning_distill.structures import UNLABELLED
from tests.builders import VectorSource, make_data, make_model, make_trainer

DOMAINS = ("here", "there")


def two_domains(hidden: Sequence[int] = ()) -> MultimodalDataModule:
    """28 training and 13 validation samples, of which 4 are of the second domain."""
    source = VectorSource(unlabelled=hidden)
    domain = np.zeros(41, np.int64)
    domain[[1, 5, 30, 33, 36, 40]] = 1
    source._table = replace(source.samples, domain=domain)
    data = make_data(source)
    data.domains = DOMAINS  # type: ignore[attr-defined]
    return data


def validated(data: MultimodalDataModule, folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """What was logged, and the share of right answers and mean loss of each domain, counted by hand."""
    torch.manual_seed(0)
    model = make_model()
    trainer = make_trainer(folder)
    trainer.validate(DistillationModule(model), datamodule=data, verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    model.eval()
    found: dict[str, list[tuple[bool, float]]] = {name: [] for name in DOMAINS}
    with torch.no_grad():
        for batch in data.val_dataloader():
            z = model(batch).logits
            for row, target in enumerate(batch["target"].tolist()):
                if target != UNLABELLED:
                    nats = -float(F.log_softmax(z[row].double(), dim=0)[target])
                    found[DOMAINS[batch["domain"][row]]].append((int(z[row].argmax()) == target, nats))
    counted = {}
    for name, rows in found.items():
        if rows:
            counted[f"val/{name}/accuracy"] = float(np.mean([right for right, _ in rows]))
            counted[f"val/{name}/task"] = float(np.mean([nats for _, nats in rows]))
    return logged, counted


def test_each_domain_has_its_own(tmp_path: Path) -> None:
    logged, counted = validated(two_domains(), tmp_path)
    assert len(counted) == 4
    assert {name: logged[name] for name in counted} == pytest.approx(counted, rel=1e-5)
    mean = (counted["val/here/accuracy"] + counted["val/there/accuracy"]) / 2
    assert logged["val/score"] == pytest.approx(mean)
    # All samples together are another thing: domains of other sizes.
    assert logged["val/accuracy"] == pytest.approx(
        (9 * counted["val/here/accuracy"] + 4 * counted["val/there/accuracy"]) / 13
    )


def test_a_domain_without_labels_has_no_metric_and_no_part_in_the_score(tmp_path: Path) -> None:
    logged, counted = validated(two_domains(hidden=(30, 33, 36, 40)), tmp_path)
    assert set(counted) == {"val/here/accuracy", "val/here/task"}
    assert not [name for name in logged if name.startswith("val/there/")]
    assert logged["val/score"] == pytest.approx(counted["val/here/accuracy"])


def test_nothing_is_said_of_one_domain(tmp_path: Path) -> None:
    data = make_data()
    trainer = make_trainer(tmp_path)
    trainer.validate(DistillationModule(make_model()), datamodule=data, verbose=False)
    assert "val/score" not in trainer.callback_metrics
    assert not [name for name in trainer.callback_metrics if name.count("/") > 1]


def test_it_can_be_monitored_and_agreement_is_by_domain(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    from lightning_distill.losses import LogitKD
    from lightning_distill.teachers import FrozenTeacher

    best = ModelCheckpoint(tmp_path, monitor="val/score", mode="max")
    stop = EarlyStopping("val/here/task")
    trainer = make_trainer(tmp_path, callbacks=[best, stop], enable_checkpointing=True, max_epochs=2)
    module = DistillationModule(make_model(), FrozenTeacher(make_model()), {"kd": LogitKD()})
    trainer.fit(module, datamodule=two_domains())
    assert best.best_model_score is not None
    assert {f"val/{name}/agreement" for name in DOMAINS} <= set(trainer.callback_metrics)


def test_terms_between_domains_are_left_out_where_the_data_do_not_tell_domains(tmp_path: Path) -> None:
    from lightning_distill.errors import ConfigError
    from lightning_distill.losses import LogitKD, MaximumMeanDiscrepancy, MinimumClassConfusion, OnTarget
    from lightning_distill.teachers import FrozenTeacher

    def module() -> DistillationModule:
        losses = {
            "a": MaximumMeanDiscrepancy(),
            "b": MinimumClassConfusion(),
            "c": OnTarget(LogitKD()),
            "kd": LogitKD(),
        }
        return DistillationModule(make_model(), FrozenTeacher(make_model()), losses)

    trainer = make_trainer(tmp_path)
    trainer.validate(module(), datamodule=make_data(), verbose=False)
    logged = trainer.callback_metrics
    assert {"val/loss", "val/task", "val/kd"} <= set(logged)
    assert not {"val/a", "val/b", "val/c"} & set(logged)
    assert logged["val/loss"] == pytest.approx(float(logged["val/task"] + logged["val/kd"]), rel=1e-6)
    with pytest.raises(ConfigError, match="CrossDomainDataModule"):  # in training it would be a mistake
        make_trainer(tmp_path).fit(module(), datamodule=make_data())
