"""Where the members of a tar file are, without unpacking it."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from lightning_distill.data.files import looks_like
from lightning_distill.errors import ManifestError

_BLOCK: Final = tarfile.BLOCKSIZE
_COMPRESSED: Final = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}


@dataclass(frozen=True)
class Member:
    """One file in a tar.

    Attributes:
        name: With its folders.
        offset: Of its first byte in the tar.
        size: Bytes.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class ShardSample:
    """The members that belong together.

    Attributes:
        key: Their name up to the first dot after the last slash.
        members: extension, in small letters -> member.
    """

    key: str
    members: dict[str, Member] = field(default_factory=dict)


def scan(path: Path) -> list[ShardSample]:
    """Read the headers of a tar file.

    Folders, hidden files and files without an extension belong to no sample.

    Args:
        path: The file, not compressed.

    Raises:
        ManifestError: If it is no whole tar, or holds links, devices, sparse files, names that leave the
            folder, or a name twice.
    """
    samples: dict[str, ShardSample] = {}
    for key, extension, member in _named(path):
        _add(path, samples.setdefault(key, ShardSample(key)), extension, member)
    return list(samples.values())


def follow(path: Path) -> Iterator[ShardSample]:
    """The samples of a tar file, each as soon as its headers have been read.

    Args:
        path: The file, not compressed.

    Raises:
        ManifestError: As for `scan`, and if a sample's members do not follow each other.
    """
    sample: ShardSample | None = None
    before: set[str] = set()
    for key, extension, member in _named(path):
        if sample is None or sample.key != key:
            if sample is not None:
                before.add(sample.key)
                yield sample
            if key in before:
                raise ManifestError(
                    where=f"{path}, member {member.name!r}",
                    found="a member of a sample that others have followed",
                    expected="the members of each sample one after the other",
                    fix="read it with ShardSource, or write the shard again, sorted by name",
                )
            sample = ShardSample(key)
        _add(path, sample, extension, member)
    if sample is not None:
        yield sample


def _named(path: Path) -> Iterator[tuple[str, str, Member]]:
    """Members that belong to a sample, with its name and their extension."""
    with path.open("rb") as file:
        _refuse_compressed(path, file.read(8))
        file.seek(0)
        for member in _members(path, file):
            folder, slash, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            if stem and extension:
                yield folder + slash + stem, extension.lower(), member


def _add(path: Path, sample: ShardSample, extension: str, member: Member) -> None:
    other = sample.members.setdefault(extension, member)
    if other is not member:
        raise ManifestError(
            where=f"{path}, member {member.name!r}",
            found=f"{other.name!r} (byte {other.offset}) and {member.name!r} (byte {member.offset})",
            expected="each name once",
            fix="write the shard again, without the one or the other",
        )


def _refuse_compressed(path: Path, head: bytes) -> None:
    command = next((c for magic, c in _COMPRESSED.items() if head.startswith(magic)), None)
    if command is not None:
        raise ManifestError(
            where=path,
            found="a compressed file, in which no member can be reached without unpacking those before it",
            expected="a tar file that is not compressed",
            fix=f"unpack it once: {command} {path}",
        )


def _members(path: Path, file: IO[bytes]) -> Iterator[Member]:
    size, last = file.seek(0, 2), -1
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or a large tar fills the memory
                if member.offset <= last or member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name!r} reaches beyond the end")
                last = member.offset
                _check(path, member)
                if member.isreg():
                    yield Member(member.name.removeprefix("./"), member.offset_data, member.size)
            end = tar.offset
    except (tarfile.TarError, ValueError, OSError, OverflowError) as error:
        raise _damaged(path, file, str(error)) from error
    # tarfile stops without a word at a damaged header, and where a cut file ends.
    file.seek(end)
    if size - end < _BLOCK:
        raise _damaged(path, file, "the mark at the end is missing: the file is cut")
    while block := file.read(1 << 20):
        if block.count(0) < len(block):
            raise _damaged(path, file, f"something else than a header at byte {end}")


def _check(path: Path, member: tarfile.TarInfo) -> None:
    name = member.name
    problem = ""
    if member.issym() or member.islnk():
        problem = f"a link to {member.linkname!r}"
    elif not member.isreg() and not member.isdir():
        problem = "a device, a pipe, or of an unknown kind"
    elif member.issparse():
        problem = "a sparse file"
    elif name.startswith("/") or ".." in name.split("/"):
        problem = "a name that leaves the folder"
    elif not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name):
        problem = "a name that is no UTF-8 text"
    if problem:
        raise ManifestError(
            where=f"{path}, member {name!r}",
            found=problem,
            expected="regular files with names such as folder/000017.jpg",
            fix="write the shard again without it",
        )


def _damaged(path: Path, file: IO[bytes], problem: str) -> ManifestError:
    file.seek(0)
    head = file.read(512)
    return ManifestError(
        where=path,
        found=f"a damaged tar ({problem})" if head[257:262] == b"ustar" else f"no tar: {looks_like(head)}",
        expected="a whole tar file, with two blocks of zeros at its end",
        fix="copy or write the shard again",
    )
