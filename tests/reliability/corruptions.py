"""Ways in which a file goes bad on a disk or on its way: bytes in, other bytes out."""

from __future__ import annotations

from typing import Final

import numpy as np

KINDS: Final = ("flips", "cut", "zeros", "swap")
"""Flipped bits in 1 to 32 bytes; an end that is missing; a block of zeros; two blocks that changed places."""


def corrupt(raw: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A damaged copy, always different from `raw`.

    Args:
        raw: At least 2 bytes, and not all the same.
        kind: One of `KINDS`.
        rng: Chooses the damage.
    """
    changed = raw
    while changed == raw:
        changed = _DAMAGE[kind](raw, rng)
    return changed


def _flips(raw: bytes, rng: np.random.Generator) -> bytes:
    data = np.frombuffer(raw, np.uint8).copy()
    places = rng.choice(len(data), min(len(data), int(rng.integers(1, 33))), replace=False)
    data[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
    return data.tobytes()


def _cut(raw: bytes, rng: np.random.Generator) -> bytes:
    return raw[: rng.integers(0, len(raw))]


def _zeros(raw: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(0, len(raw)))
    size = min(int(rng.integers(1, 4097)), len(raw) - start)
    return raw[:start] + bytes(size) + raw[start + size :]


def _swap(raw: bytes, rng: np.random.Generator) -> bytes:
    size = int(rng.integers(1, min(4096, len(raw) // 2) + 1))
    first = int(rng.integers(0, len(raw) - 2 * size + 1))
    second = int(rng.integers(first + size, len(raw) - size + 1))
    return b"".join(
        (
            raw[:first],
            raw[second : second + size],
            raw[first + size : second],
            raw[first : first + size],
            raw[second + size :],
        )
    )


_DAMAGE: Final = {"flips": _flips, "cut": _cut, "zeros": _zeros, "swap": _swap}
