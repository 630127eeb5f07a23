"""The DataModule under all modality combinations."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from lightning_distill.data.bad_samples import RECORD, BadSampleLog
from lightning_distill.data.base_checks import check_enough, check_same_data, check_settings, empty_split
from lightning_distill.data.dataset import MultimodalDataset
from lightning_distill.data.loader import BatchLoader, batch_loader, resume_point
from lightning_distill.data.orders import Sampling, Shuffle
from lightning_distill.data.processor import Processor
from lightning_distill.data.reading import Part, Reading
from lightning_distill.data.sampling import BatchKey, BatchSampler, Plan
from lightning_distill.data.source import SPLITS, DataSource
from lightning_distill.data.stream import StreamSource
from lightning_distill.data.stream_loading import stream_loading
from lightning_distill.errors import ConfigError
from lightning_distill.randomness import default_seed

NEEDED: Final = {"fit": ("train", "val"), "validate": ("val",)}
"""Stage -> splits it uses; any other uses the test split."""


class MultimodalDataModule(LightningDataModule):
    """Batches of any modalities from any source.

    A student with fewer modalities than the teacher reads the same batches; give the DataModule the
    modalities of both. Where the teacher wants another image size, tokenizer or sample rate, name it in
    `teacher_processors`: it sees the same random view of each sample, or in an `OwnView` another one. Order
    and augmentation are functions of (seed, epoch, sample), where the seed is the one given to
    `seed_everything`.

    Args:
        source: Where the samples come from. Of a stream no more is known than what comes next: it takes no
            `in_memory`, no other `sampling` and no substitutes.
        processors: modality -> preprocessing.
        batch_size: Samples a batch and device.
        num_workers: Worker processes a loader.
        in_memory: Prepare every sample once and keep it: for data that fit in memory.
        sampling: Which training samples are used, and how often; None is `Shuffle()`, each once an epoch.
        on_bad_sample: "stop" at a sample that cannot be read; or "substitute" another one, chosen by (seed,
            epoch, sample), add it to `bad_samples.jsonl` in the run folder, and stop when more than 1 % of an
            epoch's samples are bad. In evaluation a substitute has no label, and is not counted.
        teacher_processors: modality -> preprocessing for the teacher, only where it differs.
        views: Random views a sample has in training, shown in turn epoch after epoch, so that a teacher's
            answers to them can be kept; None shows a new one every epoch.

    Raises:
        ConfigError: If processors, modalities and settings do not fit.
        ManifestError: At setup, if a split that is needed is empty.
    """

    modalities: ClassVar[tuple[str, ...] | None] = None
    """What a subclass fixes; None takes the processors' modalities."""

    def __init__(
        self,
        source: DataSource | StreamSource,
        processors: dict[str, Processor],
        batch_size: int = 64,
        num_workers: int = 0,
        in_memory: bool = False,
        sampling: Sampling | None = None,
        on_bad_sample: Literal["stop", "substitute"] = "stop",
        teacher_processors: dict[str, Processor] | None = None,
        views: int | None = None,
    ) -> None:
        super().__init__()
        self.source, self.processors = source, processors
        self.teacher_processors = dict(teacher_processors or {})
        self.batch_size, self.num_workers, self.in_memory = batch_size, num_workers, in_memory
        self.sampling, self.on_bad_sample, self.views = sampling or Shuffle(), on_bad_sample, views
        check_settings(self)
        self.seed = default_seed()
        self._datasets: dict[str, MultimodalDataset] = {}
        self._left_out: frozenset[Part] = frozenset()

    @property
    def read_modalities(self) -> tuple[str, ...]:
        """Names of all modalities that student or teacher read."""
        return tuple(dict.fromkeys([*self.processors, *self.teacher_processors]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class indices."""
        return self.source.classes

    @property
    def indexed(self) -> DataSource:
        """The source.

        Raises:
            ConfigError: If it is a stream.
        """
        if isinstance(self.source, DataSource):
            return self.source
        raise ConfigError(
            where=f"{type(self).__name__}.source",
            found=f"{type(self.source).__name__}, a stream",
            expected="a source whose samples are all known",
            fix="use one that can be indexed, such as HuggingFaceSource",
        )

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of the source that a split uses: those with a modality the student reads."""
        table = self.indexed.samples
        rows = table.rows_of(split)
        rows = rows[np.logical_or.reduce([table.present[m][rows] for m in self.processors])]
        return rows[self.sampling.usable(table, rows)] if split == "train" else rows

    def dataset(self, split: str) -> MultimodalDataset:
        """The split's data set, built when first asked for."""
        if split not in self._datasets:
            rows = self.rows(split)
            if not len(rows):
                raise empty_split(type(self).__name__, split, f"0 usable rows of {len(self.indexed.samples)}")
            self._datasets[split] = self.make_dataset(rows, self.reading(split))
        return self._datasets[split]

    def make_dataset(self, rows: NDArray[np.int64], reading: Reading) -> MultimodalDataset:
        """Batches of these rows; the place to change them in a subclass."""
        return MultimodalDataset(self.indexed, rows, reading)

    def augments(self, modalities: Collection[str]) -> bool:
        """Whether training shows the teacher another view of these modalities from epoch to epoch."""
        theirs = {**self.processors, **self.teacher_processors}
        return any(theirs[m].augments for m in modalities if m in theirs)

    def leave_out(self, parts: Collection[Part]) -> None:
        """Read no more what nobody needs: what a teacher reads whose answers are all known.

        Which samples there are stays as it is.

        Args:
            parts: (`inputs` or `teacher_inputs`, modality), not all of them.
        """
        self._left_out = frozenset(parts)
        for dataset in self._datasets.values():
            dataset.leave_out(parts)

    def reading(self, split: str) -> Reading:
        """How the samples of a split are read."""
        substitute = self.on_bad_sample == "substitute"
        theirs = self.teacher_processors
        reading = Reading(self.processors, theirs, self.seed, split, self.in_memory, substitute, self.views)
        return reading.without(self._left_out)

    def setup(self, stage: str) -> None:
        """Build the data sets of a stage, and say what is in them."""
        for processor in (*self.processors.values(), *self.teacher_processors.values()):
            processor.check()
        for split in NEEDED.get(stage, ("test",)):
            if not isinstance(self.source, StreamSource):
                self.dataset(split)
            elif split not in self.source.splits:
                raise empty_split(
                    type(self).__name__, split, f"a stream of {', '.join(self.source.splits) or 'nothing'}"
                )
        if stage == "fit":
            for line in self.report():
                rank_zero_info(line)

    def report(self) -> list[str]:
        """One line a split: how many samples have which modalities, and how many have a label."""
        if isinstance(self.source, StreamSource):
            return [f"{split}: a stream" for split in self.source.splits]
        table, rows = self.indexed.samples, {split: self.rows(split) for split in SPLITS}
        return [f"{n}: {table.told(own, self.read_modalities)}" for n, own in rows.items() if len(own)]

    # -- loaders --------------------------------------------------------------------------------------

    def make_sampler(
        self,
        split: str,
        data: MultimodalDataset,
        place: tuple[int, int] = (0, 1),
        first: tuple[int, int] = (0, 0),
    ) -> DistributedSampler[BatchKey]:
        """Which samples make which batch; the place to change it in a subclass.

        Args:
            split: Name of the split.
            data: Its data set.
            place: Rank and number of processes.
            first: Epoch and batch to start with.
        """
        plan, train = Plan(), split == "train"
        if train:
            rows = data.rows.astype(np.int64, copy=False)
            plan = self.sampling.plan(self.indexed.samples, rows, data.lengths)
        return BatchSampler(len(data), self.batch_size, self.seed, train, *place, first=first, plan=plan)

    def _loader(self, split: str) -> BatchLoader:
        trainer: Any = self.trainer
        train = split == "train"
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        first = resume_point(trainer) if trainer and train else (0, 0)
        if isinstance(self.source, StreamSource):
            place = (rank, world_size)
            stream = stream_loading(self.source, self.reading(split), self.batch_size, place, first)
            return batch_loader(*stream, self.num_workers, BadSampleLog(0, None))
        data = self.dataset(split)
        check_enough(f"{type(self).__name__}, split {split!r}", len(data), world_size)
        sampler = self.make_sampler(split, data, (rank, world_size), first)
        name = RECORD if rank == 0 else RECORD.replace(".", f".rank{rank}.")
        path = Path(trainer.default_root_dir, name) if trainer else None
        return batch_loader(data, sampler, self.num_workers, BadSampleLog(len(data) // world_size, path))

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

    # -- checks ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What tells, on resume, whether the data are still the same."""
        return {"fingerprint": self.source.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other data.

        Raises:
            CheckpointError: If the samples have changed since the checkpoint.
        """
        then = state_dict.get("fingerprint")
        if getattr(self.trainer, "training", False):
            check_same_data(f"{type(self).__name__}.source", then, self.source.fingerprint)
