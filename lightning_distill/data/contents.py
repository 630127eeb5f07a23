"""What files hold, as hashes that are computed once as long as a file is not touched."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from numpy.typing import NDArray

from lightning_distill.data.index import cache_folder

_ENTRY: Final = np.dtype([(name, "<u8") for name in ("path", "size", "mtime", "ctime", "inode", "digest")])
_STATE: Final = ["size", "mtime", "ctime", "inode"]
_SETTLED: Final = 2_000_000_000
"""Nanoseconds after which a change of a file is sure to change its time."""
_THREADS: Final = 8


def hash_of_words(words: Sequence[str]) -> NDArray[np.uint64]:
    """XXH3-64 of each."""
    return np.fromiter((xxhash.xxh3_64_intdigest(word.encode()) for word in words), np.uint64, len(words))


def file_digests(root: Path, names: Sequence[str]) -> NDArray[np.uint64]:
    """XXH3-64 of what each file holds now; one that cannot be read gets a number that never comes again.

    Digests are remembered in the cache folder, for each file with its size, inode and times. Among these is
    the time of its last change in the system's own account, which no program can set: a file that was
    replaced is read again, even if its name, size and date are the old ones.

    Args:
        root: Folder that names start from.
        names: Files.
    """
    memory = cache_folder() / "contents" / f"{xxhash.xxh3_64_hexdigest(str(root.resolve()).encode())}.npy"
    known = _remembered(memory)
    now = time.time_ns()
    found = np.zeros(len(names), _ENTRY)
    found["path"] = hash_of_words(names)
    for at, name in enumerate(names):
        with contextlib.suppress(OSError):
            stat = os.stat(root / name)
            found[at] = (found["path"][at], stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, 0)
    place = np.minimum(np.searchsorted(known["path"], found["path"]), max(len(known) - 1, 0))
    same = np.zeros(len(names), np.bool_)
    if len(known):
        same = (found["path"] == known["path"][place]) & (found[_STATE] == known[_STATE][place])
        found["digest"][same] = known["digest"][place[same]]
    new = np.flatnonzero(~same)
    if len(new):
        if len(new) > 1000:
            rank_zero_info(f"{root}: reading {len(new):,} files once, to know them by what they hold")
        with ThreadPoolExecutor(_THREADS) as threads:
            digests = list(threads.map(lambda at: _digest(root / names[at]), new.tolist()))
        found["digest"][new] = [secrets.randbits(64) if d is None else d for d in digests]
        readable = new[[d is not None for d in digests]]
        settled = now - found["ctime"][readable].astype(np.int64) > _SETTLED
        _remember(memory, known, found[readable[settled]])
    return found["digest"]


def _digest(path: Path) -> int | None:
    summed = xxhash.xxh3_64()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                summed.update(block)
    except OSError:
        return None
    return summed.intdigest()


def _remembered(memory: Path) -> NDArray[Any]:
    with contextlib.suppress(OSError, ValueError):
        raw = memory.read_bytes()
        content, check = raw[:-8], raw[-8:]
        if xxhash.xxh3_64_digest(content) == check:
            return np.frombuffer(content, _ENTRY)
    return np.empty(0, _ENTRY)


def _remember(memory: Path, known: NDArray[Any], new: NDArray[Any]) -> None:
    """Replace the file as a whole; where there is no place for it, files are read again next time."""
    if not len(new):
        return
    kept = np.concatenate([new, known[~np.isin(known["path"], new["path"])]])
    content = kept[np.unique(kept["path"], return_index=True)[1]].tobytes()
    partial = memory.with_name(f".{memory.name}.{os.getpid()}.partial")
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.write_bytes(content + xxhash.xxh3_64_digest(content))
        os.replace(partial, memory)
