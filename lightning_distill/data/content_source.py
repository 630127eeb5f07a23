"""What sources have in common that hold images and sounds themselves: a sample is known by its content."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from lightning_distill.data.table_source import TableSource
from lightning_distill.data.tables import TextTable
from lightning_distill.errors import SampleError


@dataclass(frozen=True)
class PlacedTable(TextTable):
    """A table whose rows have a place that says more than a number.

    Attributes:
        place: Says where a row comes from.
    """

    place: Callable[[int], str] = str

    def where(self, row: int, column: str = "") -> str:
        """Names the place and the column in errors."""
        return self.place(row) + (f", column {column!r}" if column else "")


def content_digest(data: bytes) -> str:
    """What stands for an image or a sound in a table: 128 bits of xxh3, hexadecimal."""
    return xxhash.xxh3_128_hexdigest(data)


class ContentSource(TableSource):
    """Samples of a table whose columns of images and sounds hold the `content_digest` of each.

    So equal content has equal sample ids, whichever source it is in, and is found where it is in several
    splits. What is read is compared with the digest.
    """

    @abstractmethod
    def fetch(self, modality: str, row: int) -> bytes:
        """The bytes of an image or a sound, or of another of the `path_modalities`.

        Raises:
            SampleError: If they cannot be read.
        """

    def read(self, modality: str, row: int) -> bytes:
        """The bytes, compared with their digest.

        Raises:
            SampleError: If they cannot be read, or are others than when the source was first opened.
        """
        data = self.fetch(modality, row)
        if content_digest(data) != self.cell(modality, row):
            raise SampleError(
                where=self.where(modality, row),
                found=f"{self.name(modality, row)}, whose content has changed since the data were opened",
                expected="data that stay as they are while they are read",
                fix="start again, and restore the file if it happens again",
            )
        return data
