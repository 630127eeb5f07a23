"""Spoken digits: which voices say them, and how a clip is cut."""

import multiprocessing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from digits_pack.espeak import RATE, Espeak

SAMPLE_RATE = 8000
PEAK = 8192
"""Largest sample of every clip: a quarter of full scale, as each halving saves a bit a sample."""

FRAME = RATE // 200
SILENCE = 0.01
"""A frame of 5 ms is silence below this part of the loudest frame's level (-40 dB)."""

Prosody = tuple[int, int]
Row = tuple[int, int, int, str, str, int, int]

COLUMNS = ("start", "length", "digit", "language", "voice", "speed", "pitch")

ENGLISH_PROSODIES: tuple[Prosody, ...] = ((130, 42), (160, 50), (190, 60))
ENGLISH_VOICES = {
    "en": ("m2", "f2", "Andy"),
    "en-029": ("m1", "f1", "Alicia"),
    "en-gb-scotland": ("m3", "f3", "gustave"),
    "en-gb-x-gbclan": ("m4", "f4", "pablo"),
    "en-gb-x-gbcwmd": ("m5", "f5", "victor"),
    "en-gb-x-rp": ("m6", "linda", "Lee"),
    "en-us": ("m7", "Annie", "david"),
    "en-us-nyc": ("m8", "belinda", "steph"),
}
"""Accent (``en`` is Great Britain) to variants; none twice, so that no two English voices share a speaker."""

OTHER_PROSODIES: tuple[Prosody, ...] = ((130, 44), (165, 58))
OTHER_LANGUAGES = ("de", "es", "fr", "it", "nl", "pl", "pt", "sv")
OTHER_VARIANTS = ("Michael", "grandma", "travis")
"""Variants that speak every other language; none of them speaks English."""


@dataclass(frozen=True)
class Voice:
    """A speaker of one language.

    Attributes:
        language: Language of the digits.
        name: The synthesiser's name for the voice.
        prosodies: Speed and pitch of each rendering of a digit.
    """

    language: str
    name: str
    prosodies: tuple[Prosody, ...]


def voices() -> list[Voice]:
    """List every voice, in the order of the pack."""
    english = [
        Voice("en", f"{accent}+{variant}", ENGLISH_PROSODIES)
        for accent, variants in ENGLISH_VOICES.items()
        for variant in variants
    ]
    others = [
        Voice(language, f"{language}+{variant}", OTHER_PROSODIES)
        for language in OTHER_LANGUAGES
        for variant in OTHER_VARIANTS
    ]
    return english + others


def cut(sound: NDArray[np.int16]) -> NDArray[np.int16]:
    """Turn raw synthesiser output into a clip: trim silence, resample, set the peak."""
    wave = sound.astype(np.float64)
    frames = wave[: wave.size // FRAME * FRAME].reshape(-1, FRAME)
    levels = np.sqrt(np.mean(frames**2, axis=1))
    loud = np.flatnonzero(levels > SILENCE * levels.max())
    spoken = wave[max(loud[0] - 1, 0) * FRAME : (loud[-1] + 2) * FRAME]
    resampled = resample_poly(spoken, SAMPLE_RATE, RATE)
    clip: NDArray[np.int16] = np.round(resampled * (PEAK / np.abs(resampled).max())).astype(np.int16)
    return clip


def speak(voice: Voice) -> list[NDArray[np.int16]]:
    """Render every digit in every prosody of a voice, on a synthesiser of its own."""
    synthesiser = Espeak()
    return [
        cut(synthesiser.say(str(digit), voice.name, speed, pitch))
        for digit in range(10)
        for speed, pitch in voice.prosodies
    ]


def make_speech() -> tuple[NDArray[np.int16], list[Row]]:
    """Render the spoken part of the pack.

    Each voice runs in a fresh process, because the synthesiser's state carries over between calls.

    Returns:
        All clips in one stream at ``SAMPLE_RATE``, and a row of ``COLUMNS`` for each clip.
    """
    cast = voices()
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        clips_by_voice = pool.map(speak, cast, chunksize=1)
    rows: list[Row] = []
    start = 0
    for voice, clips in zip(cast, clips_by_voice, strict=True):
        takes = [(digit, *prosody) for digit in range(10) for prosody in voice.prosodies]
        for (digit, speed, pitch), clip in zip(takes, clips, strict=True):
            rows.append((start, clip.size, digit, voice.language, voice.name, speed, pitch))
            start += clip.size
    return np.concatenate([clip for clips in clips_by_voice for clip in clips]), rows
