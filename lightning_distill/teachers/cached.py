"""A teacher that is asked once, and quoted ever after."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor

from lightning_distill.caching import AnswerCache, AnswerFormat, Lookup, lookups
from lightning_distill.caching.lookup import EVALUATION, PENDING
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.index import cache_folder
from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.identity import identity_of
from lightning_distill.storage import MISSING
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers.base import Teacher
from lightning_distill.writing.disk import refusals_named


class CachedTeacher(Teacher):
    """Keeps what another teacher says on disk, and asks it only about what it was never asked.

    An answer is found again if the teacher's weights and code, what the sample holds, its preprocessing, the
    view it is seen in, what is kept of an answer and the version of this library are the same; if one of them
    changed, the teacher is asked again. What is new is added as training goes on, by any number of processes.
    Once all answers are there the teacher is let go, and modalities that it alone would read are not loaded.
    Where training augments what the teacher reads, give the DataModule a number of `views`.

    An answer has the stored precision, whether it was found or is new, so that training does not depend on
    what was there. What is read is compared with checksums block by block, when first touched.

    Args:
        teacher: Makes the teacher.
        folder: Of all caches; None is `teachers` in `$LIGHTNING_DISTILL_CACHE`, or else in
            `lightning_distill` of the user's cache folder.
        dtype: What answers are stored as.
        top_k: Number of logits kept of each answer, see `AnswerFormat`; None keeps all. For classes that
            exclude each other.
        also: Kept beside the logits, as `ModelOutput.at` names it; what the terms read is kept anyway.
        on_damage: "stop" at an answer that is not as it was written, or "repair": check all at the start, and
            compute what is damaged again.

    Attributes:
        lookups: View -> the samples that are shown in it, with where their answers lie.

    Raises:
        ConfigError: If the data are a stream, or show the teacher a new view every epoch.
        TeacherError: If the teacher changes during training.
        CheckpointError: If what is on disk is damaged; says which file and record.
    """

    def __init__(
        self,
        teacher: Callable[[], Teacher],
        folder: Path | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] = "float16",
        top_k: int | None = None,
        also: Sequence[str] = (),
        on_damage: Literal["stop", "repair"] = "stop",
    ) -> None:
        if isinstance(teacher, Teacher):
            raise ConfigError(
                where="CachedTeacher.teacher",
                found=f"a {type(teacher).__name__}",
                expected="a function that makes one, so that it can be let go and made again",
                fix="CachedTeacher(lambda: FrozenTeacher(load_student(folder)))",
            )
        self._make, self._root = teacher, folder or cache_folder() / "teachers"
        self._dtype, self._top_k, self._repair = dtype, top_k, on_damage == "repair"
        self._also, self._read = tuple(also), tuple[str, ...]()
        self._device = torch.device("cpu")
        self._identity: str | None = None
        self._live: Teacher | None = None
        live = self._teacher()
        self.num_classes, self.classes = live.num_classes, live.classes
        self.preprocessing = live.preprocessing
        self._modalities, self._fingerprints = tuple(live.requirements), live.fingerprints()
        self._cache: AnswerCache | None = None
        self.lookups: dict[int, Lookup] = {}
        self._writes = True

    @property
    def requirements(self) -> Mapping[str, Mapping[str, object]]:  # type: ignore[override]
        """Those of the teacher as long as it may be asked; nothing once all answers are there."""
        return {} if self._live is None else self._live.requirements

    @property
    def names(self) -> tuple[str, ...]:
        """What is kept of an answer."""
        return tuple(dict.fromkeys(("logits", *self._also, *self._read)))

    @property
    def missing(self) -> int:
        """Answers that are not there yet, over all samples and views of the data it was opened with."""
        return sum(lookup.missing for lookup in self.lookups.values())

    @property
    def cache(self) -> AnswerCache:
        """Where the answers are, once it was opened."""
        assert self._cache is not None
        return self._cache

    # -- the teacher itself ---------------------------------------------------------------------------

    def _teacher(self) -> Teacher:
        """The teacher, made if it is not there."""
        if self._live is None:
            live = self._make()
            if live.changes:
                raise _changes(live)
            identity = identity_of(live)
            if self._identity not in (None, identity):
                raise TeacherError(
                    where="CachedTeacher.teacher",
                    found="another teacher than the function made before",
                    expected="the same weights and settings every time",
                    fix="load the weights from a file, or seed what makes them",
                )
            self._identity, self._live = identity, live
            live.read_layers(self._asked)
            live.to(self._device)
        return self._live

    @property
    def _asked(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name != "logits")

    def read_layers(self, names: Sequence[str]) -> None:
        """Keep these too."""
        self._read = tuple(names)
        if self._live is not None:
            self._live.read_layers(self._asked)

    def to(self, device: torch.device) -> None:
        """Answer on that device from now on."""
        self._device = device
        if self._live is not None:
            self._live.to(device)

    def tensors(self) -> Iterator[Tensor]:
        """Those of the teacher, while it is there."""
        return iter(()) if self._live is None else self._live.tensors()

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Those of the teacher, while it is there."""
        return iter(()) if self._live is None else self._live.named_tensors()

    def fingerprints(self) -> Mapping[str, str]:
        """Those of the teacher, also when it is gone."""
        return self._fingerprints

    # -- the cache ------------------------------------------------------------------------------------

    def open(self, data: MultimodalDataModule, splits: Sequence[str]) -> None:
        """Find the answers to these data; let the teacher go if all are there."""
        if not isinstance(data, MultimodalDataModule):
            raise ConfigError(
                where="CachedTeacher",
                found=f"a {type(data).__name__}",
                expected="a MultimodalDataModule, which tells what a sample holds and how it is prepared",
                fix="use one of lightning_distill.data, or train without the cache",
            )
        self.close()
        self._writes = True
        theirs = {**data.processors, **data.teacher_processors}
        modalities = self._modalities or data.read_modalities
        depends_on = {
            "teacher": self._identity,
            "preprocessing": {m: identity_of(theirs[m]) for m in modalities},
            "kept": list(self.names),
            "dtype": self._dtype,
            "top_k": self._top_k,
        }
        answers = AnswerFormat(self.names, self._dtype, self.num_classes, self._top_k)
        self.lookups = lookups(data, splits, modalities)
        self._cache = AnswerCache(self._root, depends_on, answers)
        weakref.finalize(self, _close_quietly, self._cache)  # also if training stops at an error
        if self._repair:
            _tell_mended(self._cache)
        self._search()
        total = sum(len(lookup.keys) for lookup in self.lookups.values())
        rest = "the teacher is not needed" if not self.missing else f"{self.missing:,} will be added"
        rank_zero_info(f"teacher's answers: {total - self.missing:,} of {total:,} are there, {rest}")
        if self.missing:
            self._teacher()

    def _search(self) -> None:
        for lookup in self.lookups.values():
            lookup.search(self.cache)
        if not self.missing:
            self._live = None

    def _lookup(self, batch: Batch) -> Lookup:
        view = int(batch["view"][0]) if "view" in batch else EVALUATION
        return self.lookups.get(view, self.lookups.get(EVALUATION, _NOTHING))

    def fetch(self, batch: Batch) -> Batch:
        """Add the records of a batch, if all are there."""
        if self._cache is None:
            return batch
        lookup = self._lookup(batch)
        rows = lookup.rows(batch["sample_id"].cpu().numpy())
        places = None if rows is None else lookup.places[rows]
        if places is None or (len(places) and places.min() < 0):
            return batch
        return {**batch, "teacher_records": self.cache.records(places)}

    def __call__(self, batch: Batch) -> ModelOutput:
        """What was said about these samples, or is said now; before it is opened, nothing is kept."""
        if self._cache is None:
            return self._teacher()(batch)
        if "teacher_records" not in batch:
            batch = self.fetch(batch)
        if "teacher_records" in batch:
            return self.cache.output(batch["teacher_records"].to(batch["sample_id"].device))
        with torch.no_grad():
            records = self.cache.encode(self._teacher()(batch))
            self._try(lambda: self._add(batch, records))
            return self.cache.output(records)

    def _add(self, batch: Batch, records: Tensor) -> None:
        lookup = self._lookup(batch)
        rows = lookup.rows(batch["sample_id"].cpu().numpy())
        if rows is None:
            return  # samples of other data
        rows, first = np.unique(rows, return_index=True)
        new = lookup.places[rows] == MISSING
        if new.any():
            self.cache.add(lookup.keys[rows[new]], records[torch.from_numpy(first[new]).to(records.device)])
            lookup.places[rows[new]] = PENDING

    def _try(self, write: Callable[[], None]) -> None:
        """A disk that is full or gone must not stop a training that can go on without it."""
        if not self._writes:
            return
        try:
            write()
        except OSError as error:
            self._writes = False
            rank_zero_warn(
                f"teacher's answers are no longer kept: {self.cache.folder}: {error}. Training goes on with "
                "the teacher; what was committed before stays."
            )

    def end_epoch(self, barrier: Callable[[], None]) -> None:
        """Keep what was said in this epoch, and find what all processes have kept."""
        if self._cache is None:
            return
        self._try(self.cache.commit)
        barrier()
        self.cache.refresh()
        self._search()

    def close(self) -> None:
        """Keep what was said."""
        if self._cache is not None:
            self._try(self._cache.close)

    def fill(self, batches: Iterable[Batch]) -> Iterator[int]:
        """Ask about batches, on the device of the teacher, and keep the answers.

        Args:
            batches: Of samples it was opened with.

        Yields:
            Samples done so far.

        Raises:
            DiskError: If the disk refuses; what was committed before stays.
        """
        done = 0
        for batch in batches:
            with torch.no_grad():
                records = self.cache.encode(self._teacher()(batch))
            with refusals_named(self.cache.folder):
                self._add(batch, records)
            done += len(batch["sample_id"])
            yield done
        with refusals_named(self.cache.folder):
            self.cache.close()
        self.cache.refresh()
        self._search()


_NOTHING = Lookup(np.empty(0, np.int64), np.empty(0, np.uint64))


def _close_quietly(cache: AnswerCache) -> None:
    with contextlib.suppress(OSError):
        cache.close()


def _changes(teacher: Teacher) -> TeacherError:
    return TeacherError(
        where="CachedTeacher.teacher",
        found=f"a {type(teacher).__name__}, which changes during training",
        expected="a teacher that says the same every time",
        fix="leave the cache out",
    )


def _tell_mended(cache: AnswerCache) -> None:
    mended = cache.mend()
    for line in mended.damage:
        rank_zero_warn(f"damage, computed again: {line}")
    rank_zero_info(f"{cache.folder}: {mended.checked:,} blocks checked, {len(mended.damage)} damaged")
