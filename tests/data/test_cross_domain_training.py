"""Training on several domains with the real Trainer: exact resume, workers, metrics of each domain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_distill.data import CrossDomainDataModule, PairedByClass, PartlyLabelled, Shuffle
from lightning_distill.losses import LogitKD, OnTarget
from lightning_distill.module import DistillationModule
from tests.builders import make_model, make_trainer, weights_of
from tests.data.domains import cross, domain, vectors
from tests.module.parts import make_module
from tests.module.test_reproducible import Kill, KilledError, differing
from tests.processes import needs_fork, run_apart

LABELLED = {"target": domain(vectors(7000, train=11, val=6))}


def module() -> DistillationModule:
    seed_everything(5, verbose=False)
    student = make_model(("a",), modality_dropout=0.3)
    return make_module(student=student, losses={"kd": OnTarget(LogitKD())})


def data(workers: int = 0, **options: Any) -> CrossDomainDataModule:
    few = vectors(7000, train=11, val=6, unlabelled=range(3, 11))
    target = domain(few, num_workers=workers, batch_size=3, sampling=Shuffle(labelled_per_batch=1))
    return cross(target=target, **options)


def train(folder: Path, resume: Path | None = None, workers: int = 0, **options: Any) -> dict[str, Tensor]:
    trained, pairing = module(), options.pop("pairing", None)
    trainer = make_trainer(folder, **({"max_epochs": 3} | options))
    trainer.fit(trained, data(workers, pairing=pairing), ckpt_path=resume, weights_only=True)
    return weights_of(trained)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights after 3 epochs of 7 batches."""
    return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("saved", [3, 7, 10, 14, 20])
def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, whole: dict[str, Tensor], saved: int
) -> None:
    """Also from the middle of a pass over the shorter domain, which has 4 batches."""
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=saved, save_top_k=-1)
    with pytest.raises(KilledError):
        train(tmp_path, callbacks=[keep, Kill(saved)], enable_checkpointing=True)
    assert differing(train(tmp_path, resume=tmp_path / f"step={saved}.ckpt"), whole) == []


def test_workers_do_not_matter(tmp_path: Path, whole: dict[str, Tensor]) -> None:
    assert differing(train(tmp_path, workers=2), whole) == []


def test_pairs_resume_too(tmp_path: Path) -> None:
    options: dict[str, Any] = {"pairing": PairedByClass()}
    plain = train(tmp_path, **options)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=10, save_top_k=-1)
    with pytest.raises(KilledError):
        train(tmp_path, callbacks=[keep, Kill(10)], enable_checkpointing=True, **options)
    assert differing(train(tmp_path, resume=tmp_path / "step=10.ckpt", **options), plain) == []


def metrics(folder: Path, **options: Any) -> tuple[dict[str, float], DistillationModule, Trainer]:
    trained, trainer = module(), make_trainer(folder)
    trainer.fit(trained, cross(**options))
    return {name: float(x) for name, x in trainer.callback_metrics.items()}, trained, trainer


def right(trained: DistillationModule, batches: list[Any]) -> dict[int, list[bool]]:
    """Domain -> whether each validation sample's answer is right."""
    found: dict[int, list[bool]] = {0: [], 1: []}
    trained.eval()
    with torch.no_grad():
        for batch in batches:
            hits = trained(batch).logits.argmax(dim=1) == batch["target"]
            for at, hit in zip(batch["domain"].tolist(), hits.tolist(), strict=True):
                found[at].append(hit)
    return found


def test_each_domain_has_its_metrics_and_the_score_is_their_mean(tmp_path: Path) -> None:
    found, trained, trainer = metrics(tmp_path, **LABELLED)
    hits = right(trained, list(trainer.datamodule.val_dataloader()))  # type: ignore[attr-defined]
    assert [len(hits[at]) for at in (0, 1)] == [13, 6]
    source, target = (sum(hits[at]) / len(hits[at]) for at in (0, 1))
    assert found["val/source/accuracy"] == pytest.approx(source)
    assert found["val/target/accuracy"] == pytest.approx(target)
    assert found["val/score"] == pytest.approx((source + target) / 2)
    assert found["val/accuracy"] == pytest.approx((sum(hits[0]) + sum(hits[1])) / 19)
    assert {"val/source/agreement", "val/target/agreement", "val/kd"} <= set(found)
    both = (13 * found["val/source/task"] + 6 * found["val/target/task"]) / 19
    assert both == pytest.approx(found["val/task"], rel=1e-5)


def test_a_target_without_labels_is_trained_on_and_has_no_accuracy(tmp_path: Path) -> None:
    hidden = PartlyLabelled(vectors(7000, train=11, val=6))
    found, _, _ = metrics(tmp_path, target=domain(hidden))  # type: ignore[arg-type]
    assert not {name for name in found if name.startswith("val/target/")} - {"val/target/agreement"}
    assert "val/target/agreement" in found
    assert found["val/score"] == found["val/source/accuracy"] == found["val/accuracy"]


def test_other_data_are_not_gone_on_with(tmp_path: Path) -> None:
    one, same, other = cross(), cross(), cross(**LABELLED)
    assert one.state_dict() == same.state_dict() != other.state_dict()


class Seen(Callback):
    """Writes what one rank has seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[str, list[list[int]]] = {"train": [], "val": []}

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen["train"].append(batch["sample_id"].tolist())

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.seen["val"].append(batch["sample_id"].tolist())

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        told = {name: float(value) for name, value in trainer.callback_metrics.items()}
        found = {"seen": self.seen, "metrics": told}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(found))


def two_ranks(folder: Path) -> None:
    torch.set_num_threads(1)
    trainer = make_trainer(folder, devices=2, strategy="ddp_fork", callbacks=[Seen(folder)])
    # Of the target's validation rows only the last has a label, so one rank sees none.
    target = domain(vectors(7000, train=11, val=6, unlabelled=range(16)))
    trainer.fit(module(), cross(target=target))


@needs_fork
def test_two_ranks_share_every_domain(tmp_path: Path) -> None:
    run_apart(two_ranks, tmp_path)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["metrics"] == second["metrics"]
    assert {"val/source/accuracy", "val/target/accuracy", "val/score"} <= set(first["metrics"])
    assert first["metrics"]["val/target/accuracy"] in (0, 1)
    assert len(first["seen"]["train"]) == len(second["seen"]["train"]) == 4  # 14 rows in batches of 4
    assert len(first["seen"]["val"]) == len(second["seen"]["val"]) == 2
    train, val = (
        [i for rank in (first, second) for rows in rank["seen"][s] for i in rows] for s in ("train", "val")
    )
    assert sorted(val) == [*range(5028, 5041), *range(7011, 7017)]
    assert sorted(i for i in train if i < 7000) == list(range(5000, 5028))
    one, other = (
        [i for rows in rank["seen"]["train"][:2] for i in rows if i >= 7000] for rank in (first, second)
    )
    assert len({*one, *other}) == len(one) + len(other) == 10  # a pass is 5 rows a rank, one is left out


def test_several_sources_can_be_written_in_a_config(tmp_path: Path) -> None:
    from lightning_distill.__main__ import main

    def one(domain: str, seed: int) -> dict[str, Any]:
        rows = {"domain": domain, "train": 60, "val": 20, "test": 20, "seed": seed}
        image = {"class_path": "ImageProcessor", "init_args": {"size": 12, "channels": 1}}
        given = {"source": {"class_path": "Digits", "init_args": rows}, "processors": {"image": image}}
        return {"class_path": "ImageDataModule", "init_args": given}

    several = {
        "class_path": "Domains",
        "init_args": {"modules": {"first": one("source", 0), "more": one("source", 1)}},
    }
    encoders = {"image": {"class_path": "ImageCNN"}}
    student = {"class_path": "MultimodalModel", "init_args": {"num_classes": 10, "encoders": encoders}}
    config = {
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "model": {"class_path": "DistillationModule", "init_args": {"student": student}},
        "data": {
            "class_path": "CrossDomainDataModule",
            "init_args": {"source": several, "target": one("target", 0)},
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(tmp_path / "run.yaml"), "--run", str(tmp_path / "run")]) == 0
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert all(f"val/{name}/accuracy" in header for name in ("first", "more", "target"))


def test_predictions_tell_the_domain(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from lightning_distill.callbacks import PredictionWriter

    split = np.repeat(np.array([0, 1, 2], np.int8), [6, 3, 7])
    sources = (vectors(first, train=10, val=6, table={"split": split}) for first in (1000, 7000))
    data = CrossDomainDataModule(*map(domain, sources))
    writer = PredictionWriter(tmp_path / "said.parquet")
    make_trainer(tmp_path, callbacks=[writer]).predict(
        DistillationModule(make_model(("a", "b"))), datamodule=data, return_predictions=False
    )
    said = pq.read_table(tmp_path / "said.parquet")
    by_id = dict(zip(said["sample_id"].to_pylist(), said["domain"].to_pylist(), strict=True))
    assert len(by_id) == 14
    assert all(name == ("target" if number >= 7000 else "source") for number, name in by_id.items())
