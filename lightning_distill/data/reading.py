"""From raw samples to a batch: what every kind of data set shares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from lightning_distill.data.processor import Processor
from lightning_distill.errors import DistillError, SampleError
from lightning_distill.randomness import View
from lightning_distill.structures import Batch, Inputs

Part = tuple[str, str]
"""Where a tensor stands in a batch: (`inputs` or `teacher_inputs`, modality)."""
_PROCESSORS: Final = {"inputs": "processors", "teacher_inputs": "teacher_processors"}


@dataclass(frozen=True)
class Facts:
    """What a batch says of its samples beside their tensors; see `Batch`.

    Attributes:
        present: modality -> bool "batch".
        target: The labels.
        sample_id: int64 "batch".
        domain: int64 "batch".
        weight: float32 "batch"; None where every sample weighs 1.
    """

    present: Mapping[str, NDArray[np.bool_]]
    target: Tensor
    sample_id: NDArray[np.int64]
    domain: NDArray[np.int64]
    weight: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Reading:
    """How samples are read, apart from which.

    Attributes:
        processors: modality -> preprocessing.
        teacher_processors: modality -> the teacher's, where it differs.
        seed: Of the augmentation.
        split: It is for; the training split is augmented.
        in_memory: Prepare and collate every row once, now; a batch is then one gather a tensor.
        substitute: Put another sample in the place of one that cannot be read, instead of stopping.
        views: Number of random views a sample has in training, epoch after epoch in turn; None takes a new
            one every epoch.
    """

    processors: Mapping[str, Processor]
    teacher_processors: Mapping[str, Processor] = field(default_factory=dict)
    seed: int = 0
    split: str = "train"
    in_memory: bool = False
    substitute: bool = False
    views: int | None = None

    def parts(self) -> Iterator[tuple[Part, Processor]]:
        """Every tensor of a batch with what makes it."""
        for name in ("inputs", "teacher_inputs"):
            for modality, processor in getattr(self, _PROCESSORS[name]).items():
                yield (name, modality), processor

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of all modalities that are read."""
        return tuple(dict.fromkeys(modality for (_, modality), _ in self.parts()))

    def without(self, parts: Collection[Part]) -> Reading:
        """The same, but for some tensors that are not made any more."""
        ours = {m: p for m, p in self.processors.items() if ("inputs", m) not in parts}
        theirs = {m: p for m, p in self.teacher_processors.items() if ("teacher_inputs", m) not in parts}
        return replace(self, processors=ours, teacher_processors=theirs)

    @property
    def train(self) -> bool:
        """Whether samples are augmented."""
        return self.split == "train"

    def view_in(self, epoch: int) -> int:
        """Number of the random view that an epoch shows."""
        return epoch % self.views if self.views else epoch

    def prepare(
        self,
        there: Iterable[str],
        load: Callable[[str], Any],
        describe: Callable[[], str],
        view: View,
        known: Collection[Part] = (),
    ) -> dict[Part, Any]:
        """Prepare one sample: each modality is loaded once, for student and teacher.

        Args:
            there: Modalities the sample has; others become blank.
            load: Loads one of them.
            describe: Says where the sample comes from.
            view: Used in training, unless samples are prepared once.
            known: What need not be made.

        Raises:
            SampleError: If it cannot be loaded or prepared.
        """
        raw: dict[str, Any] = {}
        sample: dict[Part, Any] = {}
        there = frozenset(there)
        chosen = view if self.train and not self.in_memory else None
        for part, processor in self.parts():
            modality = part[1]
            if part in known:
                continue
            if modality not in there:
                sample[part] = processor.blank()
                continue
            if modality not in raw:
                raw[modality] = load(modality)
            try:
                sample[part] = processor.prepare(raw[modality], chosen)
            except ValueError as error:
                raise SampleError(
                    where=f"{describe()}, {modality}",
                    found=error,
                    expected=f"something {type(processor).__name__} can prepare",
                    fix="repair the sample, or leave its cell empty to mark it absent",
                ) from error
        return sample

    def collate(self, samples: Sequence[Mapping[Part, Any]]) -> dict[Part, Inputs]:
        """The tensors of prepared samples."""
        return {part: p.collate([sample[part] for sample in samples]) for part, p in self.parts()}

    def batch(self, found: dict[Part, Inputs], facts: Facts, epoch: int) -> Batch:
        """Augment the tensors, in training, and put everything together."""
        if self.train:
            for part, processor in self.parts():
                found[part] = processor.augment(found[part], self.seed, self.view_in(epoch), facts.sample_id)
        batch: Batch = {
            "inputs": {m: x for (name, m), x in found.items() if name == "inputs"},
            "present": {m: torch.from_numpy(present) for m, present in facts.present.items()},
            "target": facts.target,
            "sample_id": torch.from_numpy(facts.sample_id),
            "domain": torch.from_numpy(facts.domain),
        }
        if facts.weight is not None:
            batch["weight"] = torch.from_numpy(facts.weight)
        if self.train and self.views:
            batch["view"] = torch.full((len(facts.sample_id),), self.view_in(epoch))
        if self.teacher_processors:
            batch["teacher_inputs"] = {m: x for (name, m), x in found.items() if name == "teacher_inputs"}
        return batch


def told_when(error: DistillError, epoch: int, number: int) -> DistillError:
    """The same error, saying also in which epoch and batch it happened, and who was reading."""
    worker = get_worker_info()
    who = "the main process" if worker is None else f"worker {worker.id}"
    return type(error)(
        where=error.where,
        found=f"{error.found} (epoch {epoch}, batch {number}, read by {who})",
        expected=error.expected,
        fix=error.fix,
    )
