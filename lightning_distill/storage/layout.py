"""What one record holds, and where in its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Final, Self

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError

DTYPES: Final = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
}
"""What a field may be stored as, little-endian."""
_ALIGNMENT: Final = 16


@dataclass(frozen=True)
class Field:
    """One tensor of a record.

    Attributes:
        name: Of the tensor.
        shape: Without "batch".
        dtype: One of `DTYPES`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes it takes, without padding."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class RecordLayout:
    """Fields side by side, each starting at a multiple of 16 bytes, so that it can be viewed in place.

    Attributes:
        fields: In the order of their bytes.

    >>> layout = RecordLayout((Field("logits", (3,), "float16"), Field("embedding", (2,), "float32")))
    >>> layout.size
    32
    >>> rows = layout.encode({"logits": torch.ones(5, 3), "embedding": torch.zeros(5, 2)})
    >>> layout.decode(rows)["logits"].shape
    torch.Size([5, 3])
    """

    fields: tuple[Field, ...]

    @cached_property
    def places(self) -> dict[str, slice]:
        """Name -> bytes of a record."""
        found, at = {}, 0
        for field in self.fields:
            found[field.name] = slice(at, at + field.nbytes)
            at += -(-field.nbytes // _ALIGNMENT) * _ALIGNMENT
        return found

    @cached_property
    def size(self) -> int:
        """Bytes of a record."""
        return sum(-(-field.nbytes // _ALIGNMENT) * _ALIGNMENT for field in self.fields)

    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Records of a batch.

        Args:
            tensors: Name -> "batch ...", any floating dtype; one for each field.

        Returns:
            uint8 "batch size", on the device of the tensors.

        Raises:
            ConfigError: If a shape is not the field's, or a finite number is too large for its dtype.
        """
        first = next(iter(tensors.values()))
        rows = first.new_zeros(len(first), self.size, dtype=torch.uint8)
        for field in self.fields:
            found = tensors[field.name].detach()
            if tuple(found.shape[1:]) != field.shape:
                raise ConfigError(
                    where=f"{field.name!r} of a teacher's answer",
                    found=f"shape {tuple(found.shape[1:])}, and {field.shape} before",
                    expected="one shape for all samples",
                    fix="pad every batch to one length, or leave that layer out",
                )
            kept = found.to(DTYPES[field.dtype])
            if kept.is_floating_point() and bool((kept.isinf() & ~found.isinf()).any()):
                raise ConfigError(
                    where=f"{field.name!r} of a teacher's answer",
                    found=f"{found.abs().max().item():.3g}, too large for {field.dtype}",
                    expected="numbers below 65504",
                    fix="store bfloat16 or float32",
                )
            rows[:, self.places[field.name]] = kept.reshape(len(kept), -1).view(torch.uint8)
        return rows

    def decode(self, rows: Tensor) -> dict[str, Tensor]:
        """The tensors in records, without a copy.

        Args:
            rows: uint8 "batch size", each row aligned.

        Returns:
            Name -> "batch ...", as stored.
        """
        return {
            field.name: rows[:, self.places[field.name]].view(DTYPES[field.dtype]).view(-1, *field.shape)
            for field in self.fields
        }

    def plain(self) -> list[dict[str, Any]]:
        """As JSON has it."""
        return [{"name": f.name, "shape": list(f.shape), "dtype": f.dtype} for f in self.fields]

    @classmethod
    def of_plain(cls, fields: Iterable[Mapping[str, Any]]) -> Self:
        """What `plain` gave.

        Raises:
            ValueError: If it is nothing of that kind.
        """
        made = tuple(Field(str(f["name"]), tuple(map(int, f["shape"])), str(f["dtype"])) for f in fields)
        if not made or any(f.dtype not in DTYPES or min((1, *f.shape)) < 1 for f in made):
            raise ValueError(f"a record of {made}")
        return cls(made)
