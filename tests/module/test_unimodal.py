"""Heads of single modalities, trained and measured beside the fusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lightning_distill import MultimodalModel
from lightning_distill.errors import ConfigError
from lightning_distill.export import load_student, save_student
from lightning_distill.fusion import FusionHead
from lightning_distill.heads import MLPHead
from lightning_distill.module import DistillationModule
from lightning_distill.mutual import MutualDistillationModule
from lightning_distill.structures import UNLABELLED
from lightning_distill.tasks import Classification, Regression
from lightning_distill.terms import unimodal_loss
from tests.builders import (
    CLASSES,
    DIMS,
    Notebook,
    VectorSource,
    make_batch,
    make_data,
    make_model,
    make_trainer,
    weights_of,
)
from tests.shelves import concrete

SIZE = 6
ABSENT = {"a": [0, 4], "b": [1]}


def test_each_head_reads_its_modality_alone() -> None:
    model, batch = make_model(unimodal_heads=True).eval(), make_batch(size=SIZE, absent=ABSENT)
    output = model(batch)
    assert list(output.unimodal) == list(DIMS)
    for m, logits in output.unimodal.items():
        torch.testing.assert_close(logits, model.unimodal_heads[m](output.features[m]), rtol=0, atol=0)
        assert logits.shape == (SIZE, len(CLASSES))
    assert make_model()(batch).unimodal == {}


def test_they_are_of_the_kind_of_the_task_head() -> None:
    model = make_model(unimodal_heads=True, head=MLPHead)
    assert all(isinstance(h, MLPHead) for h in (model.head, *model.unimodal_heads.values()))


def test_the_loss_is_the_mean_over_modalities_of_that_on_samples_that_have_them() -> None:
    model, batch = make_model(unimodal_heads=True).eval(), make_batch(size=SIZE, absent=ABSENT)
    batch["target"][5] = UNLABELLED
    batch["weight"] = torch.linspace(0.5, 2.0, SIZE)
    output, found = model(batch), []
    for m in DIMS:
        rows = [i for i in range(SIZE) if i not in ABSENT[m] and i != 5]
        losses = F.cross_entropy(output.unimodal[m][rows], batch["target"][rows], reduction="none")
        found.append((batch["weight"][rows] * losses).sum() / batch["weight"][rows].sum())
    torch.testing.assert_close(unimodal_loss(Classification(), output, batch), sum(found) / len(found))


def test_what_nobody_has_is_no_loss_and_gives_every_head_a_gradient() -> None:
    model = make_model(unimodal_heads=True)
    batch = make_batch(size=SIZE, absent={"a": range(SIZE)})
    unimodal_loss(Classification(), model(batch), batch).backward()
    for m, head in model.unimodal_heads.items():
        for parameter in head.parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.any()) == (m == "b")


@pytest.mark.parametrize("fusion", concrete("fusion"))
def test_beside_every_fusion_head(fusion: type[FusionHead]) -> None:
    output = make_model(fusion=fusion, unimodal_heads=True)(make_batch(size=SIZE, absent=ABSENT))
    assert all(z.isfinite().all() for z in output.unimodal.values())


def fit(folder: Path, student: MultimodalModel, source: VectorSource, **options: Any) -> tuple[Any, Notebook]:
    book = Notebook()
    module = DistillationModule(student, **options)
    trainer = make_trainer(folder, logger=book, max_epochs=3)
    trainer.fit(module, datamodule=make_data(source))
    return module, book


def test_trained_logged_and_measured(tmp_path: Path) -> None:
    student = make_model(unimodal_heads=True, modality_dropout=0.3)
    before = weights_of(student.unimodal_heads)
    module, book = fit(tmp_path, student, VectorSource(absent=ABSENT), weights={"unimodal": 0.5})
    after = weights_of(module.student.unimodal_heads)
    assert not any(torch.equal(before[name], after[name]) for name in before)
    for name in ("train/unimodal", "train/unimodal_weighted", "val/unimodal"):
        assert book.series(name), name
    raw, weighted = book.series("train/unimodal"), book.series("train/unimodal_weighted")
    assert weighted == pytest.approx([0.5 * x for x in raw], rel=1e-5)
    for modality in DIMS:
        assert len(book.series(f"val/unimodal/{modality}/accuracy")) == 3
    assert not book.series("val/unimodal/a/agreement")


def test_the_metrics_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    source = VectorSource(absent={"a": [30, 33, 35], "b": [29]}, unlabelled=[36])
    module, book = fit(tmp_path, make_model(unimodal_heads=True), source)
    data = make_data(source)
    data.setup("validate")
    right = dict.fromkeys(DIMS, 0)
    seen = dict.fromkeys(DIMS, 0)
    for batch in data.val_dataloader():
        output = module.student.eval()(batch)
        for m, logits in output.unimodal.items():
            rows = batch["present"][m] & (batch["target"] != UNLABELLED)
            right[m] += int((logits.argmax(dim=1) == batch["target"])[rows].sum())
            seen[m] += int(rows.sum())
    for m in DIMS:
        assert 0 < seen[m] < 13
        assert book.series(f"val/unimodal/{m}/accuracy")[-1] == pytest.approx(right[m] / seen[m], abs=1e-6)


def test_in_a_saved_student(tmp_path: Path) -> None:
    from lightning_distill.encoders import ImageCNN, LogMelCNN

    encoders = {"image": ImageCNN(width=4), "audio": LogMelCNN(width=4)}
    model = MultimodalModel(encoders, 3, unimodal_heads=True).eval()
    config = {
        "class_path": "lightning_distill.MultimodalModel",
        "init_args": {
            "encoders": {
                "image": {"class_path": "lightning_distill.encoders.ImageCNN", "init_args": {"width": 4}},
                "audio": {"class_path": "lightning_distill.encoders.LogMelCNN", "init_args": {"width": 4}},
            },
            "num_classes": 3,
            "unimodal_heads": True,
        },
    }
    save_student(model, tmp_path / "s", config)
    batch = make_batch(("image", "audio"), SIZE)
    found = load_student(tmp_path / "s")(batch).unimodal
    assert all(torch.equal(found[m], z) for m, z in model(batch).unimodal.items())


def test_students_that_teach_each_other_may_have_them(tmp_path: Path) -> None:
    book = Notebook()
    peers = {"first": make_model(unimodal_heads=True), "second": make_model(("b",))}
    module = MutualDistillationModule(peers, {}, weights={"unimodal": 0.3})
    make_trainer(tmp_path, logger=book).fit(module, datamodule=make_data())
    assert book.series("train/first/unimodal")
    assert not book.series("train/second/unimodal")
    assert book.series("val/unimodal/a/accuracy")


def test_a_weight_without_heads_says_how_to_get_them() -> None:
    with pytest.raises(ConfigError, match="unimodal_heads: true"):
        DistillationModule(make_model(), weights={"unimodal": 0.3})


def test_a_term_of_that_name_is_refused() -> None:
    from lightning_distill.losses import LogitKD
    from lightning_distill.teachers import FrozenTeacher

    with pytest.raises(ConfigError, match="'unimodal' is the loss of the unimodal heads"):
        DistillationModule(
            make_model(unimodal_heads=True), FrozenTeacher(make_model()), losses={"unimodal": LogitKD()}
        )


def test_numbers_too() -> None:
    model, batch = make_model(unimodal_heads=True, classes=2).eval(), make_batch(size=SIZE, absent=ABSENT)
    batch["target"] = torch.randn(SIZE, 2)
    found = unimodal_loss(Regression(), model(batch), batch)
    assert found > 0
