"""What a sample looks, reads or sounds like, small enough for a page."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from math import gcd
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_distill.reporting.web import plain

if TYPE_CHECKING:
    from lightning_distill.data.source import DataSource, Waveform

SIDE: Final = 160
"""Pixels of the longest side of an image."""
CHARACTERS: Final = 400
"""Of a text."""
SECONDS: Final = 5.0
"""Of a sound."""
_TINY: Final = 48
"""Pixels of the longest side up to which an image is enlarged by a whole factor."""
_MP3_RATES: Final = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class Medium(NamedTuple):
    """One modality of one sample.

    Attributes:
        modality: Its name.
        kind: "image" or "audio", where `content` is a data URI; "text", where it is one of the data; or
            "words", where it is said about them.
        content: What to show.
    """

    modality: str
    kind: str
    content: str


def medium(source: DataSource, modality: str, row: int) -> Medium:
    """What to show of a sample; what cannot be read is said in its place.

    Args:
        source: Where it is loaded from.
        modality: One that the source knows.
        row: Of the source.
    """
    if not source.samples.present[modality][row]:
        return Medium(modality, "words", "absent")
    try:
        return shown(modality, source.load(modality, row))
    except Exception as error:  # a user's own source may raise anything, and the page is worth more
        return Medium(modality, "words", plain(f"cannot be shown: {error}", CHARACTERS))


def shown(modality: str, raw: Any) -> Medium:
    """What to show of a raw sample.

    Args:
        modality: Its name.
        raw: As a `DataSource` loads it.
    """
    from lightning_distill.data.source import Waveform

    if isinstance(raw, str):
        return Medium(modality, "text", plain(raw, CHARACTERS))
    if isinstance(raw, Waveform):
        return Medium(modality, "audio", sound(raw))
    if isinstance(raw, np.ndarray) and _is_image(raw):
        return Medium(modality, "image", picture(raw))
    return Medium(modality, "words", plain(_numbers(raw), CHARACTERS))


def _is_image(raw: NDArray[Any]) -> bool:
    channels = raw.shape[2] if raw.ndim == 3 else 1
    return raw.dtype == np.uint8 and raw.ndim in (2, 3) and channels in (1, 3, 4) and raw.size > 0


def picture(image: NDArray[np.uint8]) -> str:
    """A data URI of at most `SIDE` pixels a side: PNG or JPEG, whichever is smaller.

    Args:
        image: "height width" or "height width channels", of 1, 3 (RGB) or 4 channels.
    """
    import cv2

    if image.ndim == 3 and image.shape[2] > 1:
        # A fourth channel, opacity, is left out.
        image = np.ascontiguousarray(image[:, :, 2::-1])
    height, width = image.shape[:2]
    if max(height, width) > SIDE:
        scale = SIDE / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    elif max(height, width) <= _TINY:
        # Enlarged here, for browsers would blur it.
        factor = 2 * _TINY // max(height, width)
        image = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
    forms = [("png", cv2.imencode(".png", image)[1].tobytes())]
    forms.append(("jpeg", cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()))
    kind, data = min(forms, key=lambda form: len(form[1]))
    return _uri(f"image/{kind}", data)


def sound(wave: Waveform) -> str:
    """A data URI of at most `SECONDS` seconds: WAV of 16 bits or MP3, which every browser plays.

    Args:
        wave: Mono; what goes beyond [-1, 1] is clipped.
    """
    import soundfile

    samples = wave.samples[: int(SECONDS * wave.sample_rate)]
    samples = np.clip(np.nan_to_num(samples), -1, 1).astype(np.float32)
    rate = wave.sample_rate
    if rate not in _MP3_RATES:
        samples, rate = _resampled(samples, rate)
    forms = [("audio/wav", _encoded(samples, rate, "WAV", "PCM_16"))]
    if "MP3" in soundfile.available_formats():
        forms.append(("audio/mpeg", _encoded(samples, rate, "MP3", "MPEG_LAYER_III")))
    return _uri(*min(forms, key=lambda form: len(form[1])))


def _resampled(samples: NDArray[np.float32], rate: int) -> tuple[NDArray[np.float32], int]:
    """At the next lower rate that players know, or at the lowest."""
    from scipy.signal import resample_poly

    new = max((r for r in _MP3_RATES if r < rate), default=_MP3_RATES[0])
    common = gcd(new, rate)
    return resample_poly(samples, new // common, rate // common).astype(np.float32), new


def _encoded(samples: NDArray[np.float32], rate: int, form: str, subtype: str) -> bytes:
    import soundfile

    buffer = BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"


def _numbers(raw: Any) -> str:
    """Shape and first numbers of an array or a tensor; of other things their kind.

    >>> _numbers(np.arange(6.0).reshape(2, 3))
    'float64, 2 by 3: 0, 1, 2, 3, 4, 5'
    """
    array = np.asarray(raw)
    if array.dtype.kind not in "biuf":
        return type(raw).__name__
    shape = " by ".join(map(str, array.shape)) or "one number"
    first = ", ".join(f"{float(value):.3g}" for value in array.reshape(-1)[:8])
    return f"{array.dtype}, {shape}: {first}{', …' if array.size > 8 else ''}"
