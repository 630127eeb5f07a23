"""Whether all processes of a run see the same run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from platform import python_version
from typing import Final

import lightning
import torch

from lightning_distill.errors import RankError

_SHOWN: Final = 3
"""Differing lines in which a difference is told."""


def code(package: Path) -> str:
    """Hash of a package's source files.

    Args:
        package: Its folder.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def versions() -> str:
    """Of what computes, one a line."""
    found = {"torch": torch.__version__, "lightning": lightning.__version__, "python": python_version()}
    return "\n".join(f"{name} {version}" for name, version in found.items())


def check_same(seen: Sequence[Mapping[str, str]]) -> None:
    """Compare what the processes see.

    Args:
        seen: By rank; name -> text.

    Raises:
        RankError: If one sees something else than the first.
    """
    different = {
        rank: [
            _difference(name, seen[0].get(name, ""), text)
            for name, text in other.items()
            if text != seen[0].get(name, "")
        ]
        for rank, other in enumerate(seen)
    }
    ranks = [rank for rank, found in different.items() if found]
    if ranks:
        more = f" (so have {len(ranks) - 1} more)" if len(ranks) > 1 else ""
        raise RankError(
            where=f"rank {ranks[0]}",
            found="; ".join(different[ranks[0]]) + more,
            expected="what rank 0 has, on every rank",
            fix="start all processes with the same command, the same data and the same versions",
        )


def _difference(name: str, first: str, other: str) -> str:
    lines, others = first.splitlines(), other.splitlines()
    if max(len(lines), len(others)) <= 1:
        return f"another {name} than rank 0 ({other or 'none'}, not {first or 'none'})"
    here = [line.strip() for line in others if line not in set(lines)][:_SHOWN]
    there = [line.strip() for line in lines if line not in set(others)][:_SHOWN]
    return f"another {name} than rank 0 ({', '.join(here) or 'less'}; rank 0: {', '.join(there) or 'less'})"
