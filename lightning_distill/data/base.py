"""The DataModule under all modality combinations."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray

from lightning_distill.data.dataset import MultimodalDataset
from lightning_distill.data.loader import BatchLoader
from lightning_distill.data.processor import Processor
from lightning_distill.data.sampling import BatchSampler, Extra
from lightning_distill.data.source import DataSource
from lightning_distill.errors import ConfigError, ManifestError, nearest
from lightning_distill.randomness import default_seed


class MultimodalDataModule(LightningDataModule):
    """Batches of any modalities from any source.

    A student with fewer modalities than the teacher reads the same batches; give the DataModule the
    modalities of both. Order and augmentation are functions of (seed, epoch, sample), where the seed is the
    one given to `seed_everything`.

    Args:
        source: Where the samples come from.
        processors: modality -> preprocessing.
        batch_size: Samples a batch and device.
        num_workers: Worker processes a loader.
        in_memory: Prepare every sample once and keep it: for data that fit in memory.
        train_on_unlabelled: Keep training samples without a label (distillation learns from them).
        labelled_per_batch: Labelled samples added to every training batch, for when labels are few: with 50
            labels among thousands of samples a batch would else hold one or none.

    Raises:
        ConfigError: If processors and modalities do not fit.
        ManifestError: At setup, if a split that is needed is empty.
    """

    modalities: ClassVar[tuple[str, ...] | None] = None
    """What a subclass fixes; None takes the processors' modalities."""

    def __init__(
        self,
        source: DataSource,
        processors: dict[str, Processor],
        batch_size: int = 64,
        num_workers: int = 0,
        in_memory: bool = False,
        train_on_unlabelled: bool = True,
        labelled_per_batch: int = 0,
    ) -> None:
        super().__init__()
        self._check(source, processors, batch_size, labelled_per_batch)
        self.source, self.processors = source, processors
        self.batch_size, self.num_workers, self.in_memory = batch_size, num_workers, in_memory
        self.train_on_unlabelled, self.labelled_per_batch = train_on_unlabelled, labelled_per_batch
        self.seed = default_seed()
        self._datasets: dict[str, MultimodalDataset] = {}

    def _check(
        self,
        source: DataSource,
        processors: dict[str, Processor],
        batch_size: int,
        labelled_per_batch: int,
    ) -> None:
        name = type(self).__name__
        if self.modalities is not None and set(processors) != set(self.modalities):
            raise ConfigError(
                where=f"{name}.processors",
                found=f"processors for {sorted(processors)}",
                expected=f"one for each of {sorted(self.modalities)}",
                fix="give each modality a processor, or use the DataModule of your combination",
            )
        for modality in processors:
            if modality not in source.modalities:
                raise ConfigError(
                    where=f"{name}.processors[{modality!r}]",
                    found=f"a source with {list(source.modalities)}{nearest(modality, source.modalities)}",
                    expected=f"a source that has {modality!r}",
                    fix="tell the source where that modality is, or drop the processor",
                )
        for setting, value, least in (
            ("batch_size", batch_size, 1),
            ("labelled_per_batch", labelled_per_batch, 0),
        ):
            if value < least:
                raise ConfigError(
                    where=f"{name}.{setting}",
                    found=value,
                    expected=f"{least} or more",
                    fix=f"try {least + 16}",
                )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class indices."""
        return self.source.classes

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of the source that a split uses."""
        table = self.source.samples
        rows = table.rows_of(split)
        usable = np.logical_or.reduce([table.present[m][rows] for m in self.processors])
        if split == "train" and not self.train_on_unlabelled:
            usable &= table.labelled[rows]
        return rows[usable]

    def dataset(self, split: str) -> MultimodalDataset:
        """The split's data set, built when first asked for."""
        if split not in self._datasets:
            rows = self.rows(split)
            if not len(rows):
                raise ManifestError(
                    where=f"{type(self).__name__}, split {split!r}",
                    found=f"0 usable rows of {len(self.source.samples)}",
                    expected="at least one",
                    fix="check the split column, the labels and the modalities of those rows",
                )
            self._datasets[split] = MultimodalDataset(
                self.source, self.processors, rows, self.seed, split == "train", self.in_memory
            )
        return self._datasets[split]

    def setup(self, stage: str) -> None:
        """Build the data sets of a stage."""
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, ("test",)):
            self.dataset(split)

    def _extra(self) -> Extra:
        labelled = np.flatnonzero(self.source.samples.labelled[self.rows("train")])
        if not len(labelled):
            raise ConfigError(
                where=f"{type(self).__name__}.labelled_per_batch",
                found=f"{self.labelled_per_batch}, and no labelled training sample",
                expected="0, or labelled samples",
                fix="set labelled_per_batch to 0",
            )
        return Extra(labelled, self.labelled_per_batch)

    def _loader(self, split: str) -> BatchLoader:
        trainer: Any = self.trainer
        sampler = BatchSampler(
            len(self.dataset(split)),
            self.batch_size,
            self.seed,
            train=split == "train",
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            first=_resume_point(trainer) if trainer and split == "train" else (0, 0),
            extra=self._extra() if split == "train" and self.labelled_per_batch else None,
        )
        return BatchLoader(
            self.dataset(split),
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_one_thread,
        )

    def train_dataloader(self) -> BatchLoader:
        """Batches to train on."""
        return self._loader("train")

    def val_dataloader(self) -> BatchLoader:
        """Batches to choose a model on."""
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        """Batches to report on."""
        return self._loader("test")

    def predict_dataloader(self) -> BatchLoader:
        """The test split."""
        return self._loader("test")


def _resume_point(trainer: Any) -> tuple[int, int]:
    """Epoch and batch to go on with: Lightning counts the batches of a checkpoint, but does not skip them."""
    loop = trainer.fit_loop
    epoch = loop.epoch_progress.current
    unfinished = loop.restarting and epoch.started > epoch.processed
    return epoch.processed, loop.epoch_loop.batch_progress.current.processed if unfinished else 0


def _one_thread(worker: int) -> None:
    """OpenCV's own threads and forked workers do not go together."""
    import cv2

    cv2.setNumThreads(0)
