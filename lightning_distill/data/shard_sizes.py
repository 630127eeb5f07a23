"""How many samples each shard has, counted once."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import xxhash

from lightning_distill.data.files import read_bytes
from lightning_distill.data.index import cache_folder
from lightning_distill.data.shard_members import follow
from lightning_distill.errors import ManifestError, nearest


def shard_sizes(paths: Sequence[Path], given: Path | None) -> list[int]:
    """Samples in each shard.

    Counting reads the headers of all shards; the result is kept, and known by names, sizes and times.

    Args:
        paths: The shards.
        given: A JSON file {name of the shard: samples}; None counts.

    Raises:
        ManifestError: If a shard is damaged, or the file is wrong.
    """
    if given is not None:
        return _read(paths, given)
    states = [(str(path.absolute()), (s := path.stat()).st_size, s.st_mtime_ns) for path in paths]
    kept = cache_folder() / f"{xxhash.xxh3_128_hexdigest(repr(['shard sizes', states]).encode())}.sizes.json"
    with contextlib.suppress(OSError, ValueError, ManifestError):
        return _read(paths, kept)
    sizes = [sum(1 for _ in follow(path)) for path in paths]
    with contextlib.suppress(OSError):  # without a place to keep it, it is counted again
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = kept.with_name(f".{kept.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps({str(path): n for path, n in zip(paths, sizes, strict=True)}))
        os.replace(partial, kept)
    return sizes


def _read(paths: Sequence[Path], file: Path) -> list[int]:
    try:
        found = json.loads(read_bytes(file, file, ManifestError))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
    except ValueError as error:
        raise ManifestError(
            where=file,
            found=f"no JSON object ({error})",
            expected='the number of samples of each shard, as in {"train-000.tar": 1000}',
            fix="correct the file, or leave `sizes` out to have them counted",
        ) from error
    return [_size(found, path, file) for path in paths]


def _size(found: dict[str, object], path: Path, file: Path) -> int:
    size = found.get(str(path), found.get(path.name))
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ManifestError(
            where=f"{file}, {path.name!r}",
            found=f"nothing{nearest(path.name, found)}" if size is None else repr(size),
            expected="the number of samples of the shard",
            fix="correct the file, or leave `sizes` out to have them counted",
        )
    return size
