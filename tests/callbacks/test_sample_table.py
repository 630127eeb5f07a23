"""The table of samples for Weights & Biases: its cells, and what happens where one cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from lightning_distill.callbacks import SampleTable, WandbArtifacts
from lightning_distill.callbacks.sample_table import chosen
from lightning_distill.callbacks.wandb_cells import media_cell
from lightning_distill.data.source import Waveform
from lightning_distill.errors import ConfigError, SampleError
from lightning_distill.module import DistillationModule
from tests.builders import VectorSource, make_data, make_model, make_trainer
from tests.cli import wandb_file


def test_a_sound_can_be_played(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    wave = np.sin(np.arange(8000 * 12) / 5).astype(np.float32)
    cell = media_cell(Waveform(wave, 8000))
    assert isinstance(cell, wandb.Audio)
    import soundfile

    played, rate = soundfile.read(cell._path)
    assert (rate, len(played)) == (8000, 80000), "the first ten seconds"
    assert np.abs(played - wave[:80000]).max() < 1e-3
    assert media_cell(None) is media_cell(np.zeros((2, 3))) is None


def test_a_negative_number_of_samples_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"SampleTable\.samples: found -1"):
        SampleTable(-1)


@pytest.mark.parametrize(
    ("on_bad_sample", "loads"), [("raise", False), ("substitute", False), ("substitute", True)]
)
def test_a_sample_that_cannot_be_read_costs_its_row_only(
    tmp_path: Path, on_bad_sample: str, loads: bool
) -> None:
    """A file that broke after training; nothing that is said of another sample stands beside its picture."""
    data = make_data(_OneBad(), on_bad_sample=on_bad_sample)
    data.setup("fit")
    trainer, table = make_trainer(tmp_path), SampleTable(6)
    module = DistillationModule(make_model())
    at = chosen(data, 6)
    bad = int(data.dataset("val").rows[at[2]])
    whole, rows = table._table(trainer, module, data)
    assert len(rows) == 6
    source = cast(_OneBad, data.source)
    source.bad, source.loads = bad, loads
    with pytest.warns(UserWarning, match="the table of samples leaves out 1 that cannot be read"):
        names, left = table._table(trainer, module, data)
    assert names == whole
    assert left == [row for number, row in enumerate(rows) if number != 2]


class _OneBad(VectorSource):
    """One sample of it cannot be loaded, or only not be prepared: PyTorch takes no negative strides."""

    bad, loads = -1, False

    def load(self, modality: str, row: int) -> Any:
        if row == self.bad and not self.loads:
            raise SampleError(where=f"row {row}", found="half a file", expected="a file", fix="repair it")
        return super().load(modality, row)[:: -1 if row == self.bad else 1]


class _Unreadable(VectorSource):
    """Samples that can be read until training ends."""

    ended = False

    def load(self, modality: str, row: int) -> Any:
        if self.ended:
            raise OSError("the disk is gone")
        return super().load(modality, row)


class _End(Callback):
    """Takes the samples away."""

    def __init__(self, source: _Unreadable) -> None:
        self.source = source

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.source.ended = True


def test_a_table_that_cannot_be_made_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    source = _Unreadable()
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    callbacks = [_End(source), SampleTable(4), WandbArtifacts(tmp_path / "nothing")]
    trainer = make_trainer(tmp_path, logger=logger, callbacks=callbacks)
    monkeypatch.setenv("WANDB_MODE", "offline")
    try:
        with pytest.warns(UserWarning, match="table of samples could not be sent .*the disk is gone"):
            trainer.fit(DistillationModule(make_model()), make_data(source, in_memory=True))
    finally:
        wandb.finish()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert wandb_file.history(folder)
    assert not list(wandb_file.records(folder, "artifact"))
