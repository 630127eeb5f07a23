"""From a block of rows to the samples of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from lightning_distill.data.annotations import content_ids, weights_of
from lightning_distill.data.audio import decode_audio
from lightning_distill.data.image import decode_image
from lightning_distill.data.stream import StreamSample
from lightning_distill.data.table_source import KNOWN, unreadable
from lightning_distill.data.tables import TextTable
from lightning_distill.data.targets import MultiLabel, SingleLabel, Target
from lightning_distill.errors import ConfigError

WEIGHT: Final = "weight"
"""Column of the weight in the task's loss."""
MEDIA: Final = frozenset({"image", "audio"})
"""Modalities whose content is bytes."""


def stream_samples(
    table: TextTable, columns: Mapping[str, str], target: Target, raw: Mapping[str, Sequence[Any]]
) -> Iterator[StreamSample]:
    """The samples of a block of rows.

    Args:
        table: Its columns as text, of images and sounds the digests.
        columns: modality -> column.
        target: Reads the labels.
        raw: modality -> what there is of each row, None where it lacks it.

    Raises:
        ManifestError: If a cell is wrong.
    """
    ids, labels = content_ids(table, columns), target.read(table).values
    there = WEIGHT in table.columns
    weight: list[Any] = weights_of(table, WEIGHT).tolist() if there else [None] * len(table)
    for row in range(len(table)):
        found = {m: cells[row] for m, cells in raw.items() if cells[row] is not None}
        yield StreamSample(found, labels[row], int(ids[row]), table.where(row), weight=weight[row])


def stream_classes(target: Target, where: str) -> tuple[str, ...]:
    """The names of the classes, or of the numbers, which a stream cannot look for first.

    Args:
        target: What is to be predicted.
        where: Names the source in errors.

    Raises:
        ConfigError: If the target does not name them.
    """
    if isinstance(target, SingleLabel | MultiLabel) and target.classes is None:
        raise ConfigError(
            where=f"{where}.target.classes",
            found="none, and no ClassLabel to take them from",
            expected="the names of all classes, since a stream does not show them in advance",
            fix=f"for example target=SingleLabel({target.column!r}, classes=['cat', 'dog'])",
        )
    return tuple(getattr(target, "classes", None) or target.columns)


def decoded(sample: StreamSample, modality: str, column: str) -> Any:
    """A modality of a sample: an image or a sound decoded, a text as it is.

    Args:
        sample: Its `raw` holds bytes, or a text.
        modality: One it has.
        column: Where it comes from, for errors.

    Raises:
        SampleError: If it cannot be decoded.
    """
    raw = sample.raw[modality]
    if modality not in MEDIA:
        return raw
    decode = decode_image if modality == "image" else decode_audio
    return decode(raw, f"{sample.place}, column {column!r}", f"the {modality}")


def check_stream(where: str, modalities: Mapping[str, str], buffer: int, readers: int = 1) -> None:
    """Settings that all streams have.

    Raises:
        ConfigError: Names the source.
    """
    unknown = next((modality for modality in modalities if modality not in KNOWN), None)
    if unknown is not None:
        raise unreadable(where, unknown)
    if not modalities or buffer < 1 or readers < 1:
        raise ConfigError(
            where=where,
            found=f"modalities={dict(modalities)}, buffer={buffer}, readers={readers}",
            expected="modality -> column, and a buffer and readers of 1 or more",
            fix="for example modalities={'text': 'caption'}, buffer=1000, readers=4",
        )
