"""The espeak-ng speech synthesiser, through its C interface."""

import ctypes
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_long, c_short, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

RATE = 22050
"""Samples a second that espeak-ng produces."""

# Values of the C header's enumerations.
_SYNCHRONOUS = 2
_SPEED, _VOLUME, _PITCH = 1, 2, 3
_UTF8 = 1

HEADROOM = 60
"""Volume, with 100 as usual: low enough that no loud voice reaches the synthesiser's limiter."""

_Callback = ctypes.CFUNCTYPE(c_int, ctypes.POINTER(c_short), c_int, c_void_p)


class Espeak:
    """One synthesiser. Its voices wobble and breathe from a state that carries over from call to call.

    The same calls in the same order on a fresh instance in a fresh process give the same samples.
    """

    def __init__(self, seed: int = 0) -> None:
        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        self._variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
        self._library.espeak_Synth.argtypes = [
            c_char_p, c_size_t, c_uint, c_int, c_uint, c_uint, c_void_p, c_void_p,
        ]  # fmt: skip
        self._library.espeak_ng_SetRandSeed.argtypes = [c_long]
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
        if rate != RATE:
            raise RuntimeError(f"espeak-ng answered {rate} to its start, expected {RATE} samples a second")
        self._pieces: list[NDArray[np.int16]] = []
        self._callback = _Callback(self._collector())
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(seed)

    def _collector(self) -> Callable[[Any, int, Any], int]:
        """Make the function that espeak-ng calls with each piece of sound."""

        def collect(samples: Any, count: int, events: Any) -> int:
            if samples and count > 0:
                self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        return collect

    def say(self, text: str, voice: str, speed: int, pitch: int) -> NDArray[np.int16]:
        """Speak a text.

        Args:
            text: What to say; numerals are read in the voice's language.
            voice: ``accent+variant``, such as ``en-us+f3``.
            speed: Words a minute.
            pitch: 0 to 100, with 50 as the voice's own pitch.

        Returns:
            Samples at ``RATE``.

        Raises:
            ValueError: There is no such voice.
        """
        variant = voice.partition("+")[2]
        # espeak-ng takes an unknown variant in silence, as no variant.
        missing = variant and not (self._variants / variant).is_file()
        if missing or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_SPEED, speed), (_VOLUME, HEADROOM), (_PITCH, pitch)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._pieces.clear()
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)
