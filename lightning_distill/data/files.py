"""Files that samples live in: whether they can be read, and what their first bytes look like."""

from __future__ import annotations

import codecs
import os
import stat
from itertools import islice
from pathlib import Path
from typing import Final

from lightning_distill.errors import DistillError, ManifestError, SampleError, nearest

_SIGNATURES: Final = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"BM", "a BMP image"),
    (b"GIF8", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"8BPS", "a Photoshop image"),
    (b"fLaC", "a FLAC sound"),
    (b"OggS", "an Ogg sound"),
    (b"ID3", "an MP3 sound"),
    (b"PK\x03\x04", "a zip archive or an Office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"PAR1", "a Parquet table"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)
BOM: Final = b"\xef\xbb\xbf"
"""Byte order mark that some programs put before UTF-8 text."""
_BLOCK: Final = 1 << 22
_CONTAINERS: Final = {b"WEBP": "a WebP image", b"WAVE": "a WAV sound", b"AVI ": "an AVI video"}


def looks_like(head: bytes) -> str:
    r"""Name the kind of file that begins with these bytes.

    >>> looks_like(b"<!DOCTYPE html><html>")
    'an HTML page'
    >>> looks_like(b"RIFF\x24\x00\x00\x00WAVEfmt ")
    'a WAV sound'
    """
    if head[:4] == b"RIFF":
        return _CONTAINERS.get(head[8:12], "a RIFF container of another kind")
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
        return "an MP3 sound"
    text = head[:200].lstrip(BOM + b" \r\n\t").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if text.startswith(b"<"):
        return "XML text"
    if text and all(byte >= 32 or byte in b"\r\n\t" for byte in text):
        return f"text that begins with {text[:20].decode('utf-8', 'replace')!r}"
    return f"an unknown kind of file that begins with the bytes {head[:8].hex(' ')!r}"


def problem_of(path: str | Path) -> str:
    """What keeps a file from being read, or the empty string.

    >>> problem_of("no/such/file")
    'is missing'
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except (OSError, ValueError) as error:
        return f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(found.st_mode):
        return "is a folder"
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file but a pipe, a socket or a device"
    return "" if found.st_size else "is empty (0 bytes)"


def similar_name(path: Path) -> str:
    """The nearest name in the file's folder, as the end of a sentence; empty when none is close."""
    try:
        with os.scandir(path.parent) as entries:
            return nearest(path.name, [entry.name for entry in islice(entries, 5000)])
    except (OSError, ValueError):
        return ""


def read_bytes(path: Path, where: object, error: type[DistillError] = SampleError) -> bytes:
    """The content of a file that must be a regular one and hold something.

    Raises:
        SampleError: Or `error`, if the file is missing, empty, unreadable, a folder or a pipe.
    """
    # Looked at before it is opened: opening a pipe would wait for ever.
    problem = problem_of(path)
    if not problem:
        try:
            return path.read_bytes()
        except OSError as cause:
            problem = f"cannot be read ({cause.strerror})"
    hint = similar_name(path) if problem == "is missing" else ""
    raise error(
        where=where,
        found=f"{path}, which {problem}{hint}",
        expected="a regular file with something in it",
        fix="correct the path, restore the file, or give yourself the right to read it",
    )


def check_utf8(path: Path, data: bytes) -> None:
    """Refuse a file that is no UTF-8 text or holds a NUL byte.

    Raises:
        ManifestError: Names the byte, counted from 0, and what the file looks like.
    """
    at = _first_bad_byte(data)
    if at < 0:
        return
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[1:2] == b"\0"
    kind = "UTF-16 text" if utf16 else looks_like(data[:200])
    raise ManifestError(
        where=f"{path}, byte {at}",
        found=f"the byte {data[at]:#04x}, which is no UTF-8 text; the file looks like {kind}",
        expected="UTF-8 text",
        fix="save as UTF-8 (in a spreadsheet: 'CSV UTF-8'), or name a Parquet file .parquet",
    )


def _first_bad_byte(data: bytes) -> int:
    """Where UTF-8 ends or a NUL is, -1 for good text."""
    # In blocks: decoded, the whole file may take four times its size.
    if not data.isascii():
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, len(data), _BLOCK):
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(data[start : start + _BLOCK], final=start + _BLOCK >= len(data))
            except UnicodeDecodeError as error:
                return start - held + error.start
    return data.find(b"\0")
