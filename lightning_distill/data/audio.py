"""Sounds: read, resample, crop or pad; log-mel per batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.data.audio_headers import check_whole
from lightning_distill.data.files import read_bytes
from lightning_distill.data.log_mel import LogMel
from lightning_distill.data.processor import Processor
from lightning_distill.data.resampling import resampled
from lightning_distill.data.source import Waveform
from lightning_distill.data.spec_augment import SpecAugment
from lightning_distill.errors import ConfigError, SampleError
from lightning_distill.randomness import View, uniform
from lightning_distill.structures import Inputs

MAX_FRAMES = 3600 * 48_000
"""An hour at 48 kHz; longer sounds are refused before they are decoded."""
_AT_ONCE = 8
"""Clips whose frames stay in the processor's cache."""
MAX_RATE = 768_000
"""Hz; the resampling filter grows with the rate."""
_BLOCK = 1 << 20


def read_audio(path: Path, where: str) -> Waveform:
    """Read a file and decode it, see `decode_audio`.

    Args:
        path: File.
        where: Names file, row and field in errors.

    Raises:
        SampleError: If the file is missing, or holds no such sound.
        ConfigError: If soundfile, which decodes it, is not installed.
    """
    return decode_audio(read_bytes(path, where), where, str(path))


def decode_audio(data: bytes, where: str, name: str) -> Waveform:
    """Decode a sound (WAV, FLAC, Ogg, MP3) with soundfile; channels are averaged.

    Integers of any depth are scaled to [-1, 1]. Floating-point and compressed sounds may overshoot that; it
    is kept.

    Args:
        data: The whole file.
        where: Names file, row and field in errors.
        name: Names the file in errors.

    Raises:
        SampleError: If it is no sound, empty, cut, longer than `MAX_FRAMES`, or has samples that are not
            finite.
        ConfigError: If soundfile, which decodes it, is not installed.
    """
    soundfile = _soundfile()
    try:
        check_whole(data)
        with soundfile.SoundFile(BytesIO(data)) as file:
            return Waveform(_decode(file), file.samplerate)
    except (ValueError, soundfile.SoundFileError) as error:
        raise SampleError(
            where=where,
            found=f"{name}: {error}",
            expected=f"a whole WAV, FLAC, Ogg or MP3 sound of at most {MAX_FRAMES} frames",
            fix="restore or convert the file, or leave its cell empty to mark it absent",
        ) from error


def _soundfile() -> Any:
    """The decoder. Its wheel brings libsndfile; installed from source, it may find none."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ConfigError(
            where="reading sounds",
            found=f"no decoder: {error}",
            expected="the package soundfile, with libsndfile",
            fix="pip install soundfile",
        ) from error
    return soundfile


def _decode(file: Any) -> NDArray[np.float32]:
    """Read in blocks, so that memory follows what is there and not what the header claims."""
    if file.frames > MAX_FRAMES:
        raise ValueError(f"a header that claims {file.frames} frames")
    if not 1 <= file.samplerate <= MAX_RATE:
        raise ValueError(f"a header that claims {file.samplerate} Hz (at most {MAX_RATE} are read)")
    blocks = []
    while len(block := file.read(max(1, _BLOCK // file.channels), dtype="float32", always_2d=True)):
        blocks.append(block.mean(axis=1) if file.channels > 1 else block[:, 0])
    samples = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    if len(samples) != file.frames or not len(samples):
        raise ValueError(f"{len(samples)} frames where the header claims {file.frames}")
    if not np.isfinite(samples).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(samples))} samples that are NaN or infinite")
    return samples


class AudioProcessor(Processor):
    """Log-mel spectrograms of clips of one length, normalised per clip.

    Each band has its mean over time taken out (cepstral mean normalisation: the colour of microphone, line
    and steady noise goes with it), then the clip is scaled to unit deviation.

    Args:
        sample_rate: Hz; other rates are resampled.
        seconds: Length of a clip; longer ones lose their ends evenly, shorter ones are padded with silence.
        mels: Mel bands from 0 Hz to half the sample rate.
        window: Of the Fourier transform, seconds.
        hop: Between frames, seconds.
        dynamic_range: Energies more than this below the clip's loudest are raised to it, dB; a small
            range hides background noise and the difference between silence and digital silence.
        max_shift: Augmentation: largest shift in time, as a share of the clip.
        spec_augment: Augmentation: masks over time and frequency.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(
        self,
        sample_rate: int = 16_000,
        seconds: float = 1.0,
        mels: int = 40,
        window: float = 0.032,
        hop: float = 0.016,
        dynamic_range: float = 80.0,
        max_shift: float = 0.0,
        spec_augment: SpecAugment | None = None,
    ) -> None:
        positive = (
            sample_rate,
            seconds,
            mels,
            dynamic_range,
            round(window * sample_rate),
            round(hop * sample_rate),
        )
        if min(positive) <= 0 or not 0 <= max_shift < 0.5 or window > seconds:
            raise ConfigError(
                where="AudioProcessor",
                found=f"sample_rate={sample_rate}, seconds={seconds}, mels={mels}, window={window}, "
                f"hop={hop}, dynamic_range={dynamic_range}, max_shift={max_shift}",
                expected="positive numbers, window and hop of a sample or more, a window no longer than the "
                "clip, 0 <= max_shift < 0.5",
                fix="for example sample_rate=16000, seconds=1.0, mels=40, window=0.032, hop=0.016",
            )
        self.sample_rate, self.mels, self.max_shift = sample_rate, mels, max_shift
        self.length, self.dynamic_range = round(seconds * sample_rate), dynamic_range
        self.window, self.hop = round(window * sample_rate), round(hop * sample_rate)
        self.spec_augment = spec_augment
        self._log_mel = LogMel(sample_rate, mels, self.window, self.hop)

    @property
    def augments(self) -> bool:
        """Whether anything is set that augments."""
        return bool(self.max_shift or self.spec_augment)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that does not augment; lengths in samples."""
        names = ("sample_rate", "length", "mels", "window", "hop", "dynamic_range")
        return {name: getattr(self, name) for name in names}

    @property
    def view_settings(self) -> Mapping[str, Any]:
        """Everything that augments."""
        masks = self.spec_augment or SpecAugment(time_masks=0, frequency_masks=0)
        return {"max_shift": self.max_shift, **masks.settings}

    def portable_init_args(self, folder: Path) -> Mapping[str, Any]:
        """Lengths in seconds again, without what augments."""
        seconds = {"seconds": self.length, "window": self.window, "hop": self.hop}
        lengths = {name: length / self.sample_rate for name, length in seconds.items()}
        return {**lengths, "max_shift": 0.0, "spec_augment": None}

    def check(self) -> None:
        """Look for the decoder of sound files.

        Raises:
            ConfigError: If it is not installed.
        """
        _soundfile()

    def prepare(self, raw: Waveform, view: View | None = None) -> Tensor:
        """Resample, centre, crop or pad to float32 "length"."""
        if not isinstance(raw, Waveform):
            raise ValueError(f"{type(raw).__name__}, no Waveform with its sample rate")
        samples = raw.samples
        if not len(samples) or not 1 <= raw.sample_rate <= MAX_RATE:
            raise ValueError(f"a sound of {len(samples)} samples at {raw.sample_rate} Hz")
        if not np.isfinite(samples).all():
            raise ValueError("a sound with samples that are NaN or infinite")
        if raw.sample_rate != self.sample_rate:
            samples = resampled(samples, raw.sample_rate, self.sample_rate)
        spare = self.length - len(samples)
        if spare < 0:
            samples = samples[-spare // 2 : -spare // 2 + self.length]
        out = torch.zeros(self.length)
        start = max(spare, 0) // 2
        out[start : start + len(samples)] = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
        return out

    def blank(self) -> Tensor:
        """Silence."""
        return torch.zeros(self.length)

    def collate(self, prepared: Sequence[Tensor]) -> Tensor:
        """Log-mel spectrograms, float32 "batch frames mels", zero mean a band, unit deviation a clip."""
        # A few at a time: all steps find them in the processor's cache.
        few = (prepared[at : at + _AT_ONCE] for at in range(0, len(prepared), _AT_ONCE))
        return torch.cat([self._standardised(self._log_mel(torch.stack(list(clips)))) for clips in few])

    def _standardised(self, mel: Tensor) -> Tensor:
        loudest = mel.amax(dim=(1, 2), keepdim=True)
        mel = torch.maximum(mel, loudest - self.dynamic_range * math.log(10) / 10, out=mel)
        mel -= mel.mean(dim=1, keepdim=True)
        deviation = torch.linalg.vector_norm(mel, dim=(1, 2), keepdim=True) / math.sqrt(
            max(mel[0].numel() - 1, 1)
        )
        return mel.div_(deviation.clamp_(min=1e-3))

    def augment(self, inputs: Inputs, seed: int, epoch: int, sample_id: NDArray[np.int64]) -> Inputs:
        """Shift each spectrogram by up to `max_shift`, repeating its first or last frame, then mask it."""
        if not isinstance(inputs, Tensor):
            return inputs
        if self.max_shift:
            frames = inputs.shape[1]
            reach = round(self.max_shift * frames)
            draw = uniform(seed, epoch, sample_id, "audio shift")[:, 0]
            shift = torch.from_numpy((draw * (2 * reach + 1)).astype(np.int64) - reach)
            at = (torch.arange(frames)[None, :] + shift[:, None]).clamp_(0, frames - 1)
            inputs = inputs[torch.arange(len(inputs))[:, None], at]
        return self.spec_augment(inputs, seed, epoch, sample_id) if self.spec_augment else inputs
