"""Teachers of a domain without labels, through the real Trainer: the mean student, and one that sees more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_distill.data import (
    AudioProcessor,
    CrossDomainDataModule,
    DataSource,
    ImageProcessor,
    ImageViews,
    MultimodalDataModule,
    OwnView,
    PartlyLabelled,
    Processor,
    SpecAugment,
)
from lightning_distill.data.datasets import Digits
from lightning_distill.encoders import ImageCNN, LogMelCNN
from lightning_distill.errors import ConfigError
from lightning_distill.identity import identity_of
from lightning_distill.losses import Consistency, LogitKD, OnTarget, PseudoLabels
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from lightning_distill.randomness import View
from lightning_distill.structures import UNLABELLED, Batch
from lightning_distill.teachers import EmaTeacher, FrozenTeacher
from tests.builders import (
    DIMS,
    Notebook,
    VectorProcessor,
    VectorSource,
    make_data,
    make_model,
    make_trainer,
    same_bits,
    weights_of,
)
from tests.module.parts import supervised


class Seen(Callback):
    """Keeps the batches."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, *args: Any) -> None:
        self.on_train_batch_start(trainer, pl_module, batch, 0)


class OtherVectors(VectorSource):
    """A target domain: the numbers of `a` stand in other places there, `b` is as in the source.

    Args:
        labels: What becomes of the labels before they are hidden.
    """

    def __init__(self, val: int = 13, labels: Callable[[Any], Any] = lambda target: target) -> None:
        super().__init__(40, val)
        self.vectors["a"] = np.roll(self.vectors["a"], 3, axis=1)
        self._table = replace(self._table, target=labels(self._table.target))


def two_domains(target: DataSource | None = None, batch_size: int = 8, **options: Any) -> Any:
    """Labelled vectors, and unlabelled ones."""
    target = target or PartlyLabelled(OtherVectors())
    parts = (make_data(source, batch_size, **options) for source in (VectorSource(), target))
    return CrossDomainDataModule(*parts)


def own_views(noise: float = 0.1) -> dict[str, Any]:
    """The teacher's own view of `a`."""
    return {"teacher_processors": {"a": OwnView(VectorProcessor(DIMS["a"], noise))}}


def mean_teaching(**options: Any) -> DistillationModule:
    """A student of one modality, taught by its own mean."""
    torch.manual_seed(3)
    losses = {"pseudo": PseudoLabels(0.8), "consistency": OnTarget(Consistency())}
    return supervised(
        **({"student": make_model(("a",)), "teacher": EmaTeacher(0.8), "losses": losses} | options)
    )


# -- two views ----------------------------------------------------------------------------------------------


def test_student_and_teacher_see_two_views_in_training_and_one_in_evaluation(tmp_path: Path) -> None:
    seen, source = Seen(), VectorSource()
    data = make_data(source, **own_views())
    make_trainer(tmp_path, callbacks=[seen], max_epochs=2).fit(mean_teaching(losses={"kd": LogitKD()}), data)
    row_of = {int(i): row for row, i in enumerate(source.samples.sample_id)}
    noises = []
    for batch in seen.batches:
        ours, theirs = batch["inputs"]["a"], batch["teacher_inputs"]["a"]
        assert isinstance(ours, Tensor)
        assert isinstance(theirs, Tensor)
        rows = [row_of[i] for i in batch["sample_id"].tolist()]
        clean = torch.from_numpy(source.vectors["a"][rows]).float()
        if not bool((batch["sample_id"] < 5028).all()):
            assert torch.equal(ours, theirs)
            continue
        noises.append(torch.stack([ours - clean, theirs - clean], dim=-1).flatten(0, 1))
    noise = torch.cat(noises)
    assert noise.min() >= -1e-6
    assert noise.max() <= 0.1 + 1e-6
    assert noise.std(dim=0).min() > 0.02
    assert abs(np.corrcoef(noise.T.numpy())[0, 1]) < 0.15  # 336 pairs: about 0.05 by chance


def test_the_teachers_view_depends_on_nothing_that_ran_before(tmp_path: Path) -> None:
    found = []
    for batch_size, workers in ((8, 0), (14, 2)):
        data = make_data(batch_size=batch_size, num_workers=workers, **own_views())
        data.setup("fit")
        views = {}
        for batch in data.train_dataloader():
            views |= dict(zip(batch["sample_id"].tolist(), batch["teacher_inputs"]["a"], strict=True))
        found.append(views)
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][i], found[1][i]) for i in found[0])


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_another_augmentation_is_refused_unless_the_view_is_its_own(noise: float) -> None:
    class Noisy(VectorProcessor):
        @property
        def view_settings(self) -> dict[str, float]:
            return {"noise": self.noise}

    ours, theirs = Noisy(DIMS["a"]), Noisy(DIMS["a"], noise)
    with pytest.raises(ConfigError, match=r"teacher_processors\['a'\].*put the teacher's into an OwnView"):
        MultimodalDataModule(VectorSource(), {"a": ours}, teacher_processors={"a": theirs})
    MultimodalDataModule(VectorSource(), {"a": ours}, teacher_processors={"a": OwnView(theirs)})


def test_own_view_is_the_processor_it_holds_but_for_the_draws() -> None:
    inner = ImageProcessor(8, 1, max_shift=0.2, views=ImageViews(0.3, flip=True))
    own, raw = OwnView(inner), np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert torch.equal(own.prepare(raw), inner.prepare(raw))
    views = [View(0, 0, i) for i in range(8)]
    assert any(not torch.equal(own.prepare(raw, v), inner.prepare(raw, v)) for v in views)
    assert torch.equal(own.prepare(raw, views[0]), own.prepare(raw, views[0]))
    assert torch.equal(own.blank(), inner.blank())
    assert own.settings == inner.settings
    assert own.view_settings == {**inner.view_settings, "own_view": "ImageProcessor"}
    assert (own.varies, own.augments) == (True, True)
    assert not OwnView(ImageProcessor(8, 1)).augments
    assert identity_of(own) == identity_of(OwnView(inner)) != identity_of(OwnView(ImageProcessor(9, 1)))
    own.check()


SOUND = {"sample_rate": 8000, "seconds": 0.7, "mels": 32, "hop": 0.02}
STRONG: dict[str, Processor] = {
    "image": ImageProcessor(12, 1, max_shift=0.1, max_rotation=15, views=ImageViews(0.6)),
    "audio": AudioProcessor(**SOUND, max_shift=0.1, spec_augment=SpecAugment()),  # type: ignore[arg-type]
}
WEAK: dict[str, Processor] = {"image": ImageProcessor(12, 1), "audio": AudioProcessor(**SOUND)}  # type: ignore[arg-type]


@pytest.mark.parametrize("theirs", [STRONG, WEAK], ids=["the same augmentation", "none"])
def test_mean_teacher_of_images_and_sounds(tmp_path: Path, theirs: dict[str, Processor]) -> None:
    def data(domain: Any, labelled: int | None) -> MultimodalDataModule:
        source = Digits(domain, 32, 20, 20, labelled)
        own: dict[str, Processor] = {m: OwnView(p) for m, p in theirs.items()}
        return MultimodalDataModule(source, STRONG, 16, teacher_processors=own)

    student = MultimodalModel({"image": ImageCNN(1, 8), "audio": LogMelCNN(32, 8)}, 10)
    module, notebook, seen = mean_teaching(student=student), Notebook(), Seen()
    both = CrossDomainDataModule(data("source", None), data("target", 0))
    make_trainer(tmp_path, max_epochs=2, logger=notebook, callbacks=[seen]).fit(module, both)
    assert all(np.isfinite(notebook.series("train/loss")))
    assert min(notebook.series("train/consistency")) > 0  # two views of one sample differ from the first step
    for modality in STRONG:
        ours, own = seen.batches[0]["inputs"][modality], seen.batches[0]["teacher_inputs"][modality]
        assert isinstance(ours, Tensor)
        assert not any(torch.equal(a, b) for a, b in zip(ours, own, strict=True))
    assert module.student.preprocessing is not None
    again = mean_teaching(student=module.student)  # its settings are recorded now, and those of its mean
    make_trainer(tmp_path).validate(again, both, verbose=False)


# -- a domain without labels --------------------------------------------------------------------------------


def test_no_label_of_the_target_is_read(tmp_path: Path) -> None:
    found = []
    for labels in (lambda target: target, lambda target: (target + 1) % 3):
        data = two_domains(PartlyLabelled(OtherVectors(labels=labels)), **own_views())
        module = mean_teaching()
        make_trainer(tmp_path, max_epochs=2).fit(module, data)
        found.append(weights_of(module))
    assert all(same_bits(x, found[1][name]) for name, x in found[0].items())


@pytest.mark.parametrize(("accumulate", "saved"), [(1, 3), (2, 1)])
def test_a_training_resumed_in_an_epoch_is_the_same_to_the_bit(
    tmp_path: Path, accumulate: int, saved: int
) -> None:
    """The checkpoint of a step holds the teacher of that step, and no step is followed twice."""

    def run(**options: Any) -> DistillationModule:
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        own: dict[str, Any] = {"callbacks": [keep], "enable_checkpointing": True}
        module, steps = mean_teaching(), {"max_epochs": 2, "accumulate_grad_batches": accumulate}
        make_trainer(tmp_path, **own, **steps).fit(module, two_domains(**own_views()), **options)
        return module

    whole = run()
    resumed = run(ckpt_path=tmp_path / f"step={saved}.ckpt")
    expected, found = weights_of(whole), weights_of(resumed)
    assert found["terms.losses.pseudo.said"].sum() > 0
    assert all(same_bits(x, found[name]) for name, x in expected.items())
    assert isinstance(whole.teacher, EmaTeacher)
    assert isinstance(resumed.teacher, EmaTeacher)
    for mine, its in zip(whole.teacher.tensors(), resumed.teacher.tensors(), strict=True):
        assert same_bits(mine, its)


def test_few_target_labels_are_trained_on_and_get_no_pseudo_label(tmp_path: Path) -> None:
    term, seen = PseudoLabels(threshold=0.0, momentum=0.0), Seen()
    module = mean_teaching(losses={"pseudo": term})
    trainer = make_trainer(tmp_path, callbacks=[seen], limit_val_batches=0)
    trainer.fit(module, two_domains(PartlyLabelled(OtherVectors(), per_class=4)))
    labelled = torch.cat([b["target"][b["in_target_domain"]] for b in seen.batches]) != UNLABELLED
    assert 0 < labelled.sum() < len(labelled)
    last = seen.batches[-1]["target"]
    assert term.labels_seen.tolist() == [(last == label).sum() for label in range(3)]
    assert term.said.sum().item() == pytest.approx((last == UNLABELLED).sum().item(), rel=1e-5)
    assert term.kept_share == 1


def test_a_teacher_that_sees_more_of_the_target_teaches_it(tmp_path: Path) -> None:
    """`b` is the same in both domains and `a` is not: only who has `b` can tell what `a` means there."""
    torch.manual_seed(1)
    teacher, found = make_model(("b",)), {}
    make_trainer(tmp_path, max_epochs=12).fit(supervised(student=teacher), make_data())
    for taught in (False, True):
        losses = {"pseudo": PseudoLabels(0.7)} if taught else {}
        module = mean_teaching(teacher=FrozenTeacher(teacher) if taught else None, losses=losses)
        trainer = make_trainer(tmp_path, max_epochs=20, check_val_every_n_epoch=20)
        trainer.fit(module, two_domains(PartlyLabelled(OtherVectors(val=60), splits=("train",))))
        found[taught] = float(trainer.callback_metrics["val/target/accuracy"])
    assert found[True] > found[False] + 0.2
