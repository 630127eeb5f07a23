"""A sample of the entries of many tensors, read twice: before and after they are edited in place."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

_ROW: Final = 128
"""Entries summed together."""
_BLOCK: Final = 16
"""Entries fetched together, a cache line of float32. Neighbours are alike: many short blocks tell more."""
_ONE_IN: Final = 512
_FEWEST_ROWS: Final = 16
_TRIED: Final = 5
"""Numbers of rows among which the best spread one is taken."""
_WHOLE: Final = 4096
"""Tensors of up to so many entries are read whole."""
_GOLDEN: Final = 0.6180339887498949
"""Multiples of it, modulo 1, fill the interval evenly."""

Signature = tuple[tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device], ...]


def signature(tensors: Sequence[Tensor]) -> Signature:
    """What a plan for tensors hangs on."""
    return tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)


class _Piece(NamedTuple):
    """How one tensor is read: whole where `blocks` is 0, from a copy where memory has gaps."""

    blocks: int
    stride: int
    copied: bool


class SampledEntries:
    """Reads small tensors whole, and evenly spread blocks of 16 entries of large ones.

    Blocks start at `u * stride, (1 + u) * stride, ...` with u = frac(step * golden ratio), so that over the
    steps all entries are read alike, but for half a block at either end. Entries are read in the order of
    memory, and come in rows of 128 that are of one tensor each, filled up with zeros.

    Args:
        tensors: Of the layout, types and devices of all that are read later.

    Attributes:
        wide: Type in which sums should be taken.
        tensor: Index of the tensor each row is of: "rows".
        weight: Entries of a tensor over entries read: "tensors 1".
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        device = tensors[0].device
        dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
        self.wide = torch.promote_types(dtype, torch.float32)
        self._pieces = [_piece(t, device) for t in tensors]
        pairs = list(zip(tensors, self._pieces, strict=True))
        weights = [[t.numel() / (p.blocks * _BLOCK) if p.blocks else 1.0] for t, p in pairs]
        self.weight = torch.tensor(weights, dtype=self.wide, device=device)
        wholes = [i for i, (t, p) in enumerate(pairs) if not p.blocks for _ in range(0, t.numel(), _ROW)]
        blocks = [i for i, (_, p) in enumerate(pairs) for _ in range(p.blocks * _BLOCK // _ROW)]
        self.tensor = torch.tensor(wholes + blocks, dtype=torch.int64, device=device)
        self._whole_rows = len(wholes)
        self._zeros = torch.zeros(_ROW, dtype=dtype, device=device)
        self._rows = [torch.empty(len(self.tensor), _ROW, dtype=dtype, device=device) for _ in range(2)]
        self._shift = 0.0
        self._forget()

    def look(self, tensors: Sequence[Tensor], step: int) -> None:
        """Read the entries of this step, and remember where."""
        self._forget()
        self._shift = step * _GOLDEN % 1.0
        for tensor, piece in zip(tensors, self._pieces, strict=True):
            into = self._blocks if piece.blocks else self._wholes
            if piece.copied:
                self._copied.append((into, len(into), tensor, piece))
            into.append(self._view(tensor, piece))
            if not piece.blocks and (rest := -tensor.numel() % _ROW):
                into.append(self._zeros[:rest])
        self._read(self._rows[0])

    def look_again(self) -> tuple[Tensor, Tensor]:
        """Read the same entries.

        Returns:
            Those of the first look and those of the second, "rows 128", in `wide`; good until the next look.
        """
        for into, at, tensor, piece in self._copied:
            into[at] = self._view(tensor, piece)
        self._read(self._rows[1])
        self._forget()
        return self._rows[0].to(self.wide), self._rows[1].to(self.wide)

    def _forget(self) -> None:
        # Views would keep the gradients' memory.
        self._wholes: list[Tensor] = []
        self._blocks: list[Tensor] = []
        self._copied: list[tuple[list[Tensor], int, Tensor, _Piece]] = []

    def _view(self, tensor: Tensor, piece: _Piece) -> Tensor:
        if piece.copied:
            tensor = tensor.to(self._zeros.device, copy=True).reshape(-1)
        if not piece.blocks:
            return tensor if tensor.dim() == 1 else tensor.as_strided((tensor.numel(),), (1,))
        start = tensor.storage_offset() + int(self._shift * (piece.stride + 1))
        return tensor.as_strided((piece.blocks, _BLOCK), (piece.stride, 1), start)

    def _read(self, into: Tensor) -> None:
        if self._wholes:
            torch.cat(self._wholes, out=into[: self._whole_rows].view(-1))
        if self._blocks:
            torch.cat(self._blocks, out=into[self._whole_rows :].view(-1, _BLOCK))


def _piece(tensor: Tensor, device: torch.device) -> _Piece:
    n = tensor.numel()
    copied = tensor.device != device or not _fills_memory(tensor)
    if n <= _WHOLE:
        return _Piece(0, 0, copied)
    fewest = max(_FEWEST_ROWS, -(-n // (_ROW * _ONE_IN)))
    counts = [rows * (_ROW // _BLOCK) for rows in range(fewest, fewest + _TRIED)]
    blocks = max(counts, key=lambda count: _unlike(((n - _BLOCK) // count) / max(*tensor.stride(), 1)))
    return _Piece(blocks, (n - _BLOCK) // blocks, copied)


def _unlike(ratio: float) -> float:
    """How far multiples of a number keep from whole ones: blocks should not fall into the same columns."""
    return min(q * abs(q * ratio - round(q * ratio)) for q in range(1, 9))


def _fills_memory(tensor: Tensor) -> bool:
    """Whether its entries lie side by side, in whichever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
