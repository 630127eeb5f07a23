"""What is done to a raw sample before a student reads it, in words and numbers, for other programs."""

from __future__ import annotations

from math import gcd
from typing import Any

from lightning_distill.data import AudioProcessor, ByteTextProcessor, ImageProcessor, Processor, TextProcessor
from lightning_distill.data.own_view import OwnView
from lightning_distill.shipping.preprocessing import FOLDER


def recipe(processor: Processor, modality: str = "text") -> list[str]:
    """The steps in their order; none for a processor of another package.

    Args:
        processor: As in evaluation.
        modality: Its name.

    >>> recipe(ByteTextProcessor(9))[-1]
    'attention_mask is 1 at tokens and 0 at padding, both int64 "batch tokens".'
    """
    while isinstance(processor, OwnView):
        processor = processor.processor
    if type(processor) is ImageProcessor:
        return _image(processor)
    if type(processor) is AudioProcessor:
        return _audio(processor)
    if type(processor) is ByteTextProcessor:
        return _bytes(processor)
    return _tokens(processor, modality) if type(processor) is TextProcessor else []


def image_numbers(processor: ImageProcessor) -> dict[str, Any]:
    """When and how an image is made smaller, for `recipe`.

    Args:
        processor: Of images.
    """
    from lightning_distill.data.image import _LARGE, _LEAST

    return {"area_above": _LARGE * processor.size, "smooth_above": _LEAST * processor.size}


def _image(processor: ImageProcessor) -> list[str]:
    size, numbers = processor.size, image_numbers(processor)
    square = "Cut to the largest centred square: side = min(height, width), top = (height - side) // 2, "
    large, least = (format(number, ".10g") for number in numbers.values())
    return [
        "Decode to 8-bit RGB with the EXIF orientation applied: cv2.imdecode(bytes, cv2.IMREAD_COLOR_RGB).",
        *([square + "left = (width - side) // 2."] if processor.keep_aspect else []),
        *(["Make it grey: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)."] if processor.channels == 1 else []),
        f"If the longer side is above {large} pixels: cv2.resize(image, (min(width, {size}), "
        f"min(height, {size})), interpolation=cv2.INTER_AREA).",
        f"Else, if it is above {least} pixels: cv2.sepFilter2D(image, -1, taps(width), taps(height), "
        "borderType=cv2.BORDER_REPLICATE), where taps(side) = [a, 1 - 2 a, a] and "
        f"a = max(round(64 * (side / {size} - 1)), 1 / 16) / 256.",
        f"Then, if it is not {size} x {size} by now: cv2.resize(image, ({size}, {size})), bilinear.",
        f'Keep uint8, 0 to 255, "batch {processor.channels} {size} {size}"; the model normalises.',
    ]


def _audio(processor: AudioProcessor) -> list[str]:
    rate, length = processor.sample_rate, processor.length
    window, hop, mels, span = processor.window, processor.hop, processor.mels, processor.dynamic_range
    frames = 1 + length // hop if window % 2 == 0 else 1 + (length - 1) // hop
    common = gcd(rate, 1000)
    return [
        "Decode to float in [-1, 1], mean over the channels: soundfile.read(file, dtype='float32').",
        f"Resample to {rate} Hz: scipy.signal.resample_poly(samples, {rate} // g, rate // g), where g = "
        f"gcd(rate, {rate}); for 1000 Hz that is {rate // common} and {1000 // common}.",
        f"Spare s = {length} - len(samples). If s < 0 keep {length} samples from (-s) // 2 on, rounded down "
        "as Python does; else put s // 2 zeros before and the rest behind.",
        f"Short-time power: reflect {window // 2} samples at each end, Hann windows (periodic) of {window} "
        f"every {hop}, squared magnitude of the Fourier transform: about {frames} frames.",
        f"Sum into {mels} bands from 0 to {rate // 2} Hz: triangles on the HTK mel scale, height 1 "
        "(transformers.audio_utils.mel_filter_bank(..., mel_scale='htk')).",
        f"Natural logarithm of max(power, 1e-10); raise to no less than the clip's largest - "
        f"{span:g} * ln(10) / 10.",
        "Take out each band's mean over time; divide by max(d, 1e-3), d = sqrt(sum of squares / (n - 1)) "
        "over all n numbers of the clip.",
        f'Give float32 "batch frames {mels}".',
    ]


def _bytes(processor: ByteTextProcessor) -> list[str]:
    return [
        "A text of blanks alone is the empty text; half of a surrogate pair becomes U+FFFD.",
        f"Encode as UTF-8, keep the first {processor.max_length - 1} bytes, add 3 to each, put 1 behind.",
        "Pad with 0 at the end to the longest text of the batch.",
        'attention_mask is 1 at tokens and 0 at padding, both int64 "batch tokens".',
    ]


def _tokens(processor: TextProcessor, modality: str) -> list[str]:
    where = f"the tokenizer in {FOLDER}/{modality}/ (transformers.AutoTokenizer.from_pretrained)"
    return [
        "A text of blanks alone is the empty text; half of a surrogate pair becomes U+FFFD.",
        f"Call {where} with padding=True, truncation=True, max_length={processor.max_length}.",
        "In a text without any token, set attention_mask to 1 at one padding token.",
        'All int64 "batch tokens".',
    ]
