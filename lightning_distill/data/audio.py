"""Sounds: read, resample, crop or pad; log-mel per batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import gcd
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.data.processor import Processor
from lightning_distill.data.source import Waveform
from lightning_distill.errors import ConfigError
from lightning_distill.randomness import uniform
from lightning_distill.structures import Inputs


def read_audio(path: Path, where: str) -> Waveform:
    """Decode a sound file (wav, flac, ogg, mp3) with soundfile and mix its channels down.

    Args:
        path: File.
        where: Names file, row and field in errors.

    Raises:
        SampleError: If the file is missing, not a sound, empty, damaged, or longer than its size allows.
    """
    raise NotImplementedError  # being written


class AudioProcessor(Processor):
    """Log-mel spectrograms of clips of one length, normalised per clip.

    Args:
        sample_rate: Hz; other rates are resampled.
        seconds: Length of a clip; longer ones lose their ends evenly, shorter ones are padded with silence.
        mels: Mel bands from 0 Hz to half the sample rate.
        window: Of the Fourier transform, seconds.
        hop: Between frames, seconds.
        max_shift: Augmentation: largest shift in time, as a share of the clip.

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
        max_shift: float = 0.0,
    ) -> None:
        positive = (sample_rate, seconds, mels, window, hop)
        if min(positive) <= 0 or not 0 <= max_shift < 0.5 or window > seconds:
            raise ConfigError(
                where="AudioProcessor",
                found=f"sample_rate={sample_rate}, seconds={seconds}, mels={mels}, window={window}, hop={hop}, "
                f"max_shift={max_shift}",
                expected="positive numbers, a window no longer than the clip, a shift of 0 or more and below 0.5",
                fix="for example sample_rate=16000, seconds=1.0, mels=40, window=0.032, hop=0.016",
            )
        self.sample_rate, self.mels, self.max_shift = sample_rate, mels, max_shift
        self.length = round(seconds * sample_rate)
        self.window, self.hop = round(window * sample_rate), round(hop * sample_rate)

    def prepare(self, raw: Waveform) -> Tensor:
        """Resample, centre, crop or pad to float32 "length"."""
        samples = raw.samples
        if raw.sample_rate != self.sample_rate:
            from scipy.signal import resample_poly

            common = gcd(raw.sample_rate, self.sample_rate)
            samples = resample_poly(samples, self.sample_rate // common, raw.sample_rate // common)
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
        """Log-mel spectrograms, float32 "batch frames mels", zero mean and unit deviation a clip."""
        power = (
            torch.stft(
                torch.stack(list(prepared)),
                n_fft=self.window,
                hop_length=self.hop,
                window=self._hann,
                return_complex=True,
            )
            .abs()
            .square()
        )
        mel = torch.log((self._bank.T @ power).clamp(min=1e-8)).transpose(1, 2)
        centred = mel - mel.mean(dim=(1, 2), keepdim=True)
        return centred / centred.std(dim=(1, 2), keepdim=True).clamp(min=1e-3)

    def augment(self, inputs: Inputs, seed: int, epoch: int, sample_id: NDArray[np.int64]) -> Inputs:
        """Shift each spectrogram in time by up to `max_shift`, repeating its first or last frame."""
        if not self.max_shift or not isinstance(inputs, Tensor):
            return inputs
        frames = inputs.shape[1]
        reach = round(self.max_shift * frames)
        draw = uniform(seed, epoch, sample_id, "audio shift")[:, 0]
        shift = torch.from_numpy((draw * (2 * reach + 1)).astype(np.int64) - reach)
        at = (torch.arange(frames)[None, :] + shift[:, None]).clamp_(0, frames - 1)
        return inputs[torch.arange(len(inputs))[:, None], at]

    @cached_property
    def _hann(self) -> Tensor:
        return torch.hann_window(self.window)

    @cached_property
    def _bank(self) -> Tensor:
        from transformers.audio_utils import mel_filter_bank

        bank = mel_filter_bank(
            self.window // 2 + 1, self.mels, 0.0, self.sample_rate / 2, self.sample_rate, mel_scale="htk"
        )
        return torch.from_numpy(bank).float()
