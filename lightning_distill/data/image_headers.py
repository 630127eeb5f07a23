"""Sizes of images from their headers, and whether a file is whole, without decoding it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from lightning_distill.data.files import looks_like

_JPEG_MARKER: Final = re.compile(rb"\xff[\x01-\xfe]")
_JPEG_SIZES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_SCAN: Final = 0xDA
# In compressed data, FF is followed by 00 or by a restart marker, so this is found nowhere in there.
_JPEG_END: Final = b"\xff\xd9"
_PNG_END: Final = b"\0\0\0\0IEND\xaeB\x60\x82"


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG, PNG, WebP or BMP file, before orientation.

    OpenCV fills the missing half of a cut JPEG with grey and says nothing, so the end is looked for here.

    Args:
        data: The whole file.

    Raises:
        ValueError: If it is none of these, cut short, or its header makes no sense.

    >>> image_size(b"<html>")
    Traceback (most recent call last):
    ValueError: an HTML page
    """
    kind = looks_like(data[:200])
    if kind not in _SIZES:
        raise ValueError(kind)
    width, height = _SIZES[kind](data)
    if width < 1 or height < 1:
        raise ValueError(f"{kind} whose header claims {width} x {height} pixels")
    return width, height


def _jpeg(data: bytes) -> tuple[int, int]:
    size, at = (0, 0), 2
    while (marker := _JPEG_MARKER.search(data, at)) is not None:
        at, code = marker.end(), data[marker.end() - 1]
        if code in _JPEG_SIZES and size == (0, 0):
            size = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 3 : at + 5])
        if code not in _JPEG_BARE:
            at += int.from_bytes(data[at : at + 2])
        if code == _JPEG_SCAN:
            break
    # Looked for behind the header alone, since a thumbnail in there ends like an image.
    if data.rfind(_JPEG_END, at) < 0:
        raise ValueError("a JPEG image cut short: its end marker is missing")
    return size


def _png(data: bytes) -> tuple[int, int]:
    if data.rfind(_PNG_END) < 0:
        raise ValueError("a PNG image cut short: its IEND chunk is missing")
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def _webp(data: bytes) -> tuple[int, int]:
    claimed = _little(data, 4, 4) + 8
    if claimed > len(data):
        raise ValueError(f"a WebP image cut short: {len(data)} of {claimed} bytes")
    kind = data[12:16]
    if kind == b"VP8X":
        return _little(data, 24, 3) + 1, _little(data, 27, 3) + 1
    if kind == b"VP8L":
        bits = _little(data, 21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
    raise ValueError(f"a WebP image with an unknown chunk {kind!r}")


def _bmp(data: bytes) -> tuple[int, int]:
    pixels, header = _little(data, 10, 4), _little(data, 14, 4)
    if header == 12:
        width, height, bits, packed = _little(data, 18, 2), _little(data, 20, 2), _little(data, 24, 2), 0
    else:
        width, height = _little(data, 18, 4, signed=True), abs(_little(data, 22, 4, signed=True))
        bits, packed = _little(data, 28, 2), _little(data, 30, 4)
    run_length = packed in (1, 2)
    claimed = pixels + (_little(data, 34, 4) if run_length else (width * bits + 31) // 32 * 4 * height)
    if claimed > len(data):
        raise ValueError(f"a BMP image cut short: {len(data)} of {claimed} bytes")
    return width, height


def _little(data: bytes, at: int, count: int, signed: bool = False) -> int:
    return int.from_bytes(data[at : at + count], "little", signed=signed)


_SIZES: Final[dict[str, Callable[[bytes], tuple[int, int]]]] = {
    "a JPEG image": _jpeg,
    "a PNG image": _png,
    "a WebP image": _webp,
    "a BMP image": _bmp,
}
