"""One training and one evaluation of the demo, by Lightning's Trainer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything

from lightning_distill.commands.demo.constants import BATCH_SIZE
from lightning_distill.commands.demo.models import processors
from lightning_distill.data import DataSource, MultimodalDataModule
from lightning_distill.errors import NonFiniteError
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from lightning_distill.structures import Batch
from lightning_distill.teachers import Teacher


def data_module(source: DataSource, modalities: Sequence[str], **options: Any) -> MultimodalDataModule:
    """The source's samples, prepared once and kept: a batch is one gather."""
    return MultimodalDataModule(source, processors(modalities), BATCH_SIZE, in_memory=True, **options)


def start(seed: int) -> None:
    """Make everything that follows a function of the seed."""
    seed_everything(seed, verbose=False)


def fit(module: DistillationModule, data: LightningDataModule, steps: int) -> int | None:
    """Train.

    Returns:
        The step at which a loss was not finite, or None if training came to its end.
    """
    trainer = Trainer(max_steps=steps, limit_val_batches=0, num_sanity_val_steps=0, **_quiet())
    try:
        trainer.fit(module, datamodule=data)
    except NonFiniteError:
        return int(trainer.global_step)
    return None


def evaluate(
    model: MultimodalModel, data: LightningDataModule, teacher: Teacher | None = None
) -> dict[str, float]:
    """Test metrics without their prefix: accuracy, macro_f1, calibration_error, agreement."""
    trainer = Trainer(**_quiet())
    (result,) = trainer.test(DistillationModule(model, teacher=teacher), datamodule=data, verbose=False)
    return {name.removeprefix("test/"): float(value) for name, value in result.items()}


def latency(model: MultimodalModel, batch: Batch, rounds: int = 20) -> float:
    """Milliseconds a sample, one thread, process time, median over `rounds` batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model.eval()
    seconds = []
    with torch.no_grad():
        for _ in range(rounds):
            begin = time.process_time()
            model(batch)
            seconds.append(time.process_time() - begin)
    torch.set_num_threads(threads)
    return sorted(seconds)[rounds // 2] / len(batch["target"]) * 1000


def _quiet() -> dict[str, Any]:
    return {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
