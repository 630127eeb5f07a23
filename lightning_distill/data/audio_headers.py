"""Whether a sound file is whole: libsndfile plays what is left of a cut WAV or Ogg file and says nothing."""

from __future__ import annotations

from typing import Final

from lightning_distill.data.files import looks_like

_KINDS: Final = ("a WAV sound", "a FLAC sound", "an Ogg sound", "an MP3 sound")
_STREAMED: Final = 0xFFFFFFFF
_OGG_LAST: Final = 0x04


def check_whole(data: bytes) -> None:
    """Refuse what is no WAV, FLAC, Ogg or MP3 file, and WAV and Ogg files that were cut.

    A cut FLAC file, or MP3 file with a length in its header, shows when it is decoded.

    Args:
        data: The whole file.

    Raises:
        ValueError: Says what it is instead.

    >>> check_whole(b"<html>")
    Traceback (most recent call last):
    ValueError: an HTML page
    """
    kind = looks_like(data[:200])
    if kind not in _KINDS:
        raise ValueError(kind)
    if kind == "a WAV sound":
        _check_wav(data)
    elif kind == "an Ogg sound":
        _check_ogg(data)


def _check_wav(data: bytes) -> None:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"data":
            if size != _STREAMED and at + 8 + size > len(data):
                raise ValueError(f"a WAV sound cut short: {len(data) - at - 8} of {size} bytes of samples")
            return
        at += 8 + size + size % 2
    raise ValueError("a WAV sound cut short: its samples are missing")


def _check_ogg(data: bytes) -> None:
    at = data.rfind(b"OggS")
    lengths = data[at + 27 : at + 27 + data[at + 26]] if at + 26 < len(data) else b""
    whole = len(lengths) > 0 and at + 27 + len(lengths) + sum(lengths) <= len(data)
    if not (whole and len(lengths) == data[at + 26] and data[at + 5] & _OGG_LAST):
        raise ValueError("an Ogg sound cut short: its last page is missing or not whole")
