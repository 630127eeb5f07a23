"""Digits that come with the package: handwriting, written words and synthetic speech, in two domains."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.datasets.class_paired import (
    Bank,
    ClassPairedSource,
    split_at_random,
    split_by_group,
)
from lightning_distill.data.source import Waveform

DIGITS: Final = tuple("0123456789")


def _bytes(name: str) -> bytes:
    return files("lightning_distill.data.datasets").joinpath("digits_pack").joinpath(name).read_bytes()


def _table(name: str) -> dict[str, NDArray[np.str_]]:
    rows = list(csv.DictReader(_bytes(name).decode().splitlines()))
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


@cache
def handwriting(domain: Literal["source", "target"]) -> Bank:
    """MNIST (28 x 28, source) or optdigits (8 x 8, target), uint8 grey."""
    with np.load(BytesIO(_bytes("mnist.npz" if domain == "source" else "optdigits.npz"))) as pack:
        images, labels = pack["images"], pack["labels"].astype(np.int64)
    if domain == "target":
        images = (images.astype(np.float32) * (255 / 16)).round().astype(np.uint8)
    return Bank(labels, split_at_random(f"handwriting {domain}", len(labels), 0.1, 0.25), images.__getitem__)


@cache
def number_words(domain: Literal["source", "target"]) -> Bank:
    """Written number words; every fourth language, in alphabetical order, belongs to the target."""
    table = _table("words.csv")
    target = np.isin(table["language"], sorted(set(table["language"]))[3::4])
    kept = np.flatnonzero(target if domain == "target" else ~target)
    texts = table["text"][kept]
    labels = table["digit"][kept].astype(np.int64)
    return Bank(
        labels, split_at_random(f"words {domain}", len(kept), 0.1, 0.25), lambda item: str(texts[item])
    )
