"""Digits said by espeak-ng, in many voices, accents, speeds and pitches; 8 kHz."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from cross_domain_features import folder_of
from numpy.typing import NDArray

from lightning_distill.data.source import Waveform
from lightning_distill.randomness import generator

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
RATE = 8000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = (
    "en", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp", "en-us", "en-us-nyc",
)  # fmt: skip
VARIANTS = (
    "m1", "f1", "Alex", "m2", "Alicia", "Andy", "f2", "m3", "Annie", "Denis", "m4", "f3", "Gene", "Hugo",
    "linda", "Lee", "m5", "Marco", "f4", "Michael", "aunty", "m6", "adam", "f5", "benjamin", "boris", "anika",
    "m7", "caleb", "ed", "belinda", "m8", "ian", "john", "steph", "max", "paul", "grandma", "quincy",
    "victor",
)  # fmt: skip
ACCENTS_A_VARIANT, PROSODIES = 3, 2


@dataclass(frozen=True)
class Speech:
    """Clips and what they say."""

    waveforms: Sequence[Waveform]
    digit: NDArray[np.int64]
    voice: NDArray[np.str_]


@cache
def synthetic_speech(work: Path) -> Speech:
    """The clips, made once and kept in `work`."""
    file = work / "synthetic_speech.npz"
    if not file.exists():
        folder_of("espeakng_loader")
        work.mkdir(parents=True, exist_ok=True)
        # The synthesiser's voices wobble from a state that carries over: a fresh process is a fresh state.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            arrays = pool.submit(_speak).result()
        partial = file.with_suffix(f".{os.getpid()}.partial.npz")
        np.savez(partial, **arrays)
        partial.replace(file)
    with np.load(file) as kept:
        pieces = np.split(kept["stream"], np.cumsum(kept["length"])[:-1])
        waves = [Waveform(piece.astype(np.float32) / 32768, RATE) for piece in pieces]
        return Speech(waves, kept["digit"], kept["voice"])


def _speak() -> dict[str, NDArray[Any]]:
    sys.path.insert(0, str(SCRIPTS))
    from digits_pack.espeak import Espeak
    from digits_pack.speech import cut

    synthesiser, draw = Espeak(), generator("synthetic speech")
    clips, digits, voices = [], [], []
    for number, variant in enumerate(VARIANTS):
        for turn in range(ACCENTS_A_VARIANT):
            voice = f"{ACCENTS[(number + 3 * turn) % len(ACCENTS)]}+{variant}"
            for digit, word in enumerate(WORDS):
                for _ in range(PROSODIES):
                    speed, pitch = int(draw.integers(100, 231)), int(draw.integers(20, 81))
                    clips.append(cut(synthesiser.say(word, voice, speed, pitch)))
                    digits.append(digit)
                    voices.append(voice)
    return {
        "stream": np.concatenate(clips),
        "length": np.array([len(clip) for clip in clips]),
        "digit": np.array(digits, np.int64),
        "voice": np.array(voices),
    }
