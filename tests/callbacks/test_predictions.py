"""Predictions as Parquet: complete, in order, all or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from lightning_distill.callbacks import PredictionWriter
from lightning_distill.errors import ConfigError, SampleError
from lightning_distill.module import DistillationModule
from lightning_distill.tasks import Multilabel, Regression
from tests.builders import CLASSES, VectorSource, make_data, make_model, make_trainer


class TestSplit(VectorSource):
    """Its validation rows are for testing."""

    __test__ = False

    def __init__(self, broken_row: int | None = None) -> None:
        super().__init__(train=8, val=21)
        self._table.split[self._table.split == 1] = 2
        self.broken_row = broken_row

    def load(self, modality: str, row: int) -> Any:
        if row == self.broken_row:
            raise SampleError(where=f"row {row}", found="nothing", expected="something", fix="repair it")
        return super().load(modality, row)


def predict(path: Path, source: VectorSource) -> DistillationModule:
    module = DistillationModule(make_model())
    trainer = make_trainer(path.parent, callbacks=[PredictionWriter(path)])
    trainer.predict(module, datamodule=make_data(source), return_predictions=False)
    return module


def test_one_row_a_sample_as_the_model_says(tmp_path: Path) -> None:
    path, source = tmp_path / "deep" / "p.parquet", TestSplit()
    module = predict(path, source)
    table = pq.read_table(path)
    assert [str(field.type) for field in table.schema] == [
        "int64",
        "string",
        "list<element: float>",
        "list<element: float>",
    ]
    assert table["sample_id"].to_pylist() == source.samples.sample_id[source.samples.rows_of("test")].tolist()
    batches = [module.eval()(batch) for batch in make_data(source).test_dataloader()]
    probabilities = torch.cat([b.logits for b in batches]).softmax(dim=1)
    assert np.allclose(table["probabilities"].to_pylist(), probabilities.detach().numpy())
    embedding = torch.cat([b.embedding for b in batches])
    assert np.array_equal(np.float32(table["embedding"].to_pylist()), embedding.detach().numpy())
    assert table["prediction"].to_pylist() == [CLASSES[i] for i in probabilities.argmax(dim=1)]
    assert json.loads(table.schema.metadata[b"classes"]) == list(CLASSES)
    assert [p.name for p in path.parent.iterdir()] == ["p.parquet"]


def test_a_failure_on_the_way_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    predict(path, TestSplit())
    before = path.read_bytes()
    with pytest.raises(SampleError):
        predict(path, TestSplit(broken_row=25))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.parquet"]


@pytest.mark.parametrize("name", ["p.csv", "p", "p.parquet.gz"])
def test_the_name_must_say_parquet(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.parquet"):
        PredictionWriter(tmp_path / name)


def prediction(ids: list[int], classes: int = 3) -> dict[str, Tensor]:
    size = len(ids)
    return {
        "sample_id": torch.tensor(ids),
        "prediction": torch.arange(size) % classes,
        "probabilities": torch.eye(classes)[torch.arange(size) % classes].to(torch.bfloat16),
        "embedding": torch.full((size, 2), float(ids[0])),
    }


def write(path: Path, outputs: dict[str, Tensor]) -> Any:
    """One batch through the callback; the file as a table."""
    trainer: Any = SimpleNamespace(
        global_rank=0, world_size=1, is_global_zero=True, datamodule=SimpleNamespace(classes=CLASSES)
    )
    trainer.strategy = SimpleNamespace(barrier=lambda name: None)
    writer, module = PredictionWriter(path), SimpleNamespace()
    writer.on_predict_batch_end(trainer, module, outputs, None, 0)  # type: ignore[arg-type]
    writer.on_predict_end(trainer, module)  # type: ignore[arg-type]
    return pq.read_table(path)


LOGITS = torch.tensor([[2.0, -1.0, 3.0], [-1.0, -2.0, -3.0], [-1.0, 0.5, -4.0]])


def test_several_classes_a_sample_are_a_list_of_names(tmp_path: Path) -> None:
    said = Multilabel().predict(LOGITS.bfloat16())
    batch = {"sample_id": torch.arange(3), **said, "embedding": torch.zeros(3, 2)}
    table = write(tmp_path / "p.parquet", batch)
    assert table["prediction"].to_pylist() == [["ant", "cat"], [], ["bee"]]
    assert np.allclose(table["probabilities"].to_pylist(), 1 / (1 + np.exp(-LOGITS.numpy())))
    assert json.loads(table.schema.metadata[b"classes"]) == list(CLASSES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_one_column_each(tmp_path: Path, dtype: torch.dtype) -> None:
    said = Regression().predict(LOGITS.to(dtype))
    batch = {"sample_id": torch.arange(3), **said, "embedding": torch.zeros(3, 2)}
    table = write(tmp_path / "p.parquet", batch)
    assert table.column_names == ["sample_id", *(f"prediction_{name}" for name in CLASSES), "embedding"]
    for at, name in enumerate(CLASSES):
        assert str(table.schema.field(f"prediction_{name}").type) == "float"
        assert table[f"prediction_{name}"].to_pylist() == LOGITS[:, at].tolist()


def test_several_processes_write_one_file_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    writers = [PredictionWriter(path) for _ in range(3)]
    strategy = SimpleNamespace(barrier=lambda name: None)
    module: Any = SimpleNamespace()
    for rank in (2, 1, 0):
        trainer: Any = SimpleNamespace(
            global_rank=rank, world_size=3, is_global_zero=rank == 0, strategy=strategy, datamodule=None
        )
        if rank != 1:  # a process may have had nothing to do
            writers[rank].on_predict_batch_end(
                trainer, module, prediction([rank * 10, rank * 10 + 1]), None, 0
            )
            writers[rank].on_predict_batch_end(trainer, module, prediction([rank * 10 + 2]), None, 1)
        writers[rank].on_predict_end(trainer, module)
    table = pq.read_table(path)
    assert table["sample_id"].to_pylist() == [0, 1, 2, 20, 21, 22]
    assert table["prediction"].to_pylist() == ["0", "1", "0", "0", "1", "0"]
    assert [p.name for p in tmp_path.iterdir()] == ["p.parquet"]
