"""Digests of the decoded parts of the digits pack."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Protocol


class Array(Protocol):
    """The part of a NumPy array that a digest needs, so that this file needs no NumPy."""

    @property
    def dtype(self) -> object:
        """Element type; its text is the type's name, such as ``uint8``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""

    def tobytes(self) -> bytes:
        """Elements in C order."""


def array_digest(array: Array) -> str:
    """Hash an array with its type and shape.

    The digested bytes are ``<dtype> <length>x<length>...`` and a newline, then the elements in C order.
    """
    header = f"{array.dtype} {'x'.join(map(str, array.shape))}\n"
    return hashlib.sha256(header.encode() + array.tobytes()).hexdigest()


def table_digest(rows: Iterable[Iterable[object]]) -> str:
    """Hash a table, without its heading: cells joined by tabs, each row ended by a newline, as UTF-8."""
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(expected: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """Name every part whose digest differs between two sets of checksums.

    Args:
        expected: Digest of each part that should be there.
        actual: Digest of each part that is there.

    Returns:
        One line for each part that differs, is missing, or is unexpected; empty when all agree.
    """
    return [
        f"{name}: expected {expected.get(name, 'nothing')}, got {actual.get(name, 'nothing')}"
        for name in sorted(expected.keys() | actual.keys())
        if expected.get(name) != actual.get(name)
    ]
