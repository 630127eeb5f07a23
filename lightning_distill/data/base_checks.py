"""What must hold between the settings of a DataModule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_distill.data.own_view import OwnView
from lightning_distill.data.stream import StreamSource, check_stream_settings
from lightning_distill.errors import CheckpointError, ConfigError, ManifestError, nearest

if TYPE_CHECKING:
    from lightning_distill.data.base import MultimodalDataModule


def check_settings(data: MultimodalDataModule) -> None:
    """Processors, source and numbers must fit each other.

    Raises:
        ConfigError: The first that does not.
    """
    name = type(data).__name__
    _check_modalities(data, name)
    for setting, value, least in (
        ("batch_size", data.batch_size, 1),
        ("num_workers", data.num_workers, 0),
        ("views", 1 if data.views is None else data.views, 1),
    ):
        if value < least:
            raise ConfigError(
                where=f"{name}.{setting}", found=value, expected=f"{least} or more", fix=f"try {least}"
            )
    _check_views(data, name)
    if isinstance(data.source, StreamSource):
        check_stream_settings(name, data.in_memory, data.sampling, data.on_bad_sample)


def empty_split(name: str, split: str, found: str) -> ManifestError:
    """The error of a split without a sample.

    Args:
        name: Of the DataModule's class.
        split: Which.
        found: What is there instead.
    """
    return ManifestError(
        where=f"{name}, split {split!r}",
        found=found,
        expected="at least one",
        fix="check the split column, the labels and the modalities of those rows",
    )


def check_enough(where: str, samples: int, processes: int) -> None:
    """Each process must get a sample.

    Args:
        where: Whose data, and which split.
        samples: Of it.
        processes: That share them.

    Raises:
        ManifestError: If there are fewer samples than processes.
    """
    if samples < processes:
        raise ManifestError(
            where=where,
            found=f"{samples} samples for {processes} processes",
            expected="at least one for each",
            fix=f"use {samples} devices or fewer, or more data",
        )


def check_same_data(where: str, then: str | None, now: str) -> None:
    """A training that goes on must read the data it began with.

    Args:
        where: Whose source.
        then: Fingerprint in the checkpoint; none and an empty one tell nothing.
        now: That of the source.

    Raises:
        CheckpointError: If they differ.
    """
    if then not in (None, "", now):
        raise CheckpointError(
            where=where,
            found=f"data that have changed since the checkpoint was made: {then} then, {now} now",
            expected="the same samples, targets and splits",
            fix="restore the data, or start a new run",
        )


def _check_modalities(data: MultimodalDataModule, name: str) -> None:
    read, there = data.read_modalities, data.source.modalities
    if data.modalities is not None and set(read) != set(data.modalities):
        raise ConfigError(
            where=f"{name}.processors",
            found=f"processors for {sorted(read)}",
            expected=f"one for each of {sorted(data.modalities)}",
            fix="give each modality a processor, or use the DataModule of your combination",
        )
    if not data.processors:
        raise ConfigError(
            where=f"{name}.processors",
            found="none",
            expected="modality -> processor, for what the student reads",
            fix="for example {image: {class_path: ImageProcessor}}",
        )
    for modality in read:
        if modality not in there:
            raise ConfigError(
                where=f"{name}.processors[{modality!r}]",
                found=f"a source with {list(there)}{nearest(modality, there)}",
                expected=f"a source that has {modality!r}",
                fix="tell the source where that modality is, or drop the processor",
            )


def _check_views(data: MultimodalDataModule, name: str) -> None:
    """Teacher and student see the same view of a sample, unless told; what is kept in memory has no other."""
    for modality, theirs in data.teacher_processors.items():
        ours = data.processors.get(modality, theirs)
        if not isinstance(theirs, OwnView) and dict(ours.view_settings) != dict(theirs.view_settings):
            raise ConfigError(
                where=f"{name}.teacher_processors[{modality!r}]",
                found=f"views by {dict(theirs.view_settings)}, the student's by {dict(ours.view_settings)}",
                expected="the same augmentation, so that both see the same view of a sample",
                fix="give both processors the same augmentation settings; or put the teacher's into an "
                "OwnView, for a teacher that is to see another view, as consistency training wants it",
            )
    for processors in (data.processors, data.teacher_processors):
        for modality, processor in processors.items():
            if data.in_memory and processor.varies:
                raise ConfigError(
                    where=f"{name}.in_memory",
                    found=f"true, and random views of raw samples: {modality} {processor.view_settings}",
                    expected="samples that can be prepared once",
                    fix="set in_memory to false, or augment batches only (max_shift and the like)",
                )
