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
from lightning_distill.randomness import generator

DIGITS: Final = tuple("0123456789")


def _bytes(name: str) -> bytes:
    return files("lightning_distill.data.datasets").joinpath("digits_pack").joinpath(name).read_bytes()


def _table(name: str) -> dict[str, NDArray[np.str_]]:
    rows = list(csv.DictReader(_bytes(name).decode().splitlines()))
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


@cache
def handwriting(domain: Literal["source", "target"]) -> Bank:
    """MNIST without its margin (20 x 20, source) or optdigits (8 x 8, target), uint8 grey.

    Both then fill their frame with the digit, as optdigits was made.
    """
    with np.load(
        BytesIO(_bytes("mnist.npz" if domain == "source" else "optdigits.npz")), allow_pickle=False
    ) as pack:
        images, labels = pack["images"], pack["labels"].astype(np.int64)
    if domain == "source":
        images = images[:, 4:24, 4:24]
    else:
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


TARGET_ACCENTS: Final = ("en-029", "en-gb-scotland", "en-gb-x-gbcwmd")
"""Accents of English only the target domain has: Caribbean, Scottish, West Midlands."""
TELEPHONE: Final = (300.0, 3400.0)
"""Hz; the band of a telephone line."""
NOISE_DB: Final = 15.0
"""Signal-to-noise ratio of the target's speech, dB."""


@cache
def speech(domain: Literal["source", "target"]) -> Bank:
    """Synthetic speech at 8 kHz; whole voices belong to a split.

    Source: five accents of English. Target: three other accents, through a telephone band, with white
    noise.
    """
    import soundfile

    stream, rate = soundfile.read(BytesIO(_bytes("speech.flac")), dtype="float32")
    table = _table("speech.csv")
    accent = np.array([voice.split("+")[0] for voice in table["voice"]])
    target = np.isin(accent, TARGET_ACCENTS)
    kept = np.flatnonzero((table["language"] == "en") & (target if domain == "target" else ~target))
    start, length = (table[key][kept].astype(np.int64) for key in ("start", "length"))
    voices = table["voice"][kept]
    ordered = sorted(set(voices))
    held_out = set(ordered[2::3])  # one voice of each accent

    @cache
    def load(item: int) -> Waveform:
        samples = stream[start[item] : start[item] + length[item]]
        return Waveform(_over_the_phone(samples, rate, int(item)) if domain == "target" else samples, rate)

    split = split_by_group(voices, set(), held_out)
    split[np.flatnonzero(split == 0)[::8]] = 1
    return Bank(table["digit"][kept].astype(np.int64), split, load)


def _over_the_phone(samples: NDArray[np.float32], rate: int, item: int) -> NDArray[np.float32]:
    from scipy.signal import butter, sosfilt

    heard = sosfilt(butter(4, TELEPHONE, "bandpass", fs=rate, output="sos"), samples)
    noise = generator("telephone noise", item).standard_normal(len(heard))
    return (heard + noise * heard.std() * 10 ** (-NOISE_DB / 20)).astype(np.float32)


class Digits(ClassPairedSource):
    """The digits 0 to 9 as image, text and audio, in a domain with labels and one without.

    | modality | source | target |
    |---|---|---|
    | image | MNIST without its margin, 20 x 20 | optdigits, 8 x 8 |
    | text | number words of three quarters of the languages | of every fourth language |
    | audio | English in five accents | in three other accents, telephone band, white noise at 15 dB |

    Rows pair an image, a word and a recording of the same digit at random: they were not recorded together.
    The speech is synthetic. Test rows use other images, words and voices than training rows.

    Args:
        domain: "source" or "target".
        train: Training rows.
        val: Validation rows.
        test: Test rows.
        labelled: Training rows that keep their label; None keeps all.
        seed: Of pairing and of the choice of labels.

    Source: the pack's README names the origin and licence of each part.
    """

    def __init__(
        self,
        domain: Literal["source", "target"] = "source",
        train: int = 6000,
        val: int = 500,
        test: int = 1000,
        labelled: int | None = None,
        seed: int = 0,
    ) -> None:
        banks = {"image": handwriting(domain), "text": number_words(domain), "audio": speech(domain)}
        sizes = {"train": train, "val": val, "test": test}
        super().__init__(f"digits-{domain}", banks, DIGITS, sizes, labelled, seed)
