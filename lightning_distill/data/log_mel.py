"""Log-mel spectrograms of a batch of clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_FLOOR: Final = 1e-10
_BLOCKS: Final = 5


@dataclass(frozen=True)
class LogMel:
    """Logarithm of the power in each mel band, frame by frame.

    Frames are Hann windows around every `hop`-th sample, with the clip reflected at its ends, as `torch.stft`
    cuts them. The reflection is made by hand, which is faster, and the power is summed into bands in blocks,
    since a band has only a few of the frequencies.

    Attributes:
        sample_rate: Hz.
        mels: Bands from 0 Hz to half the sample rate, triangles on the HTK mel scale.
        window: Samples a frame.
        hop: Samples between frames.
    """

    sample_rate: int
    mels: int
    window: int
    hop: int

    def __call__(self, clips: Tensor) -> Tensor:
        """Nats, float32 "batch frames mels".

        Args:
            clips: float32 "batch time", no shorter than the window.
        """
        reach = self.window // 2
        ends = clips[:, 1 : reach + 1].flip(1), clips[:, clips.shape[1] - reach - 1 : -1].flip(1)
        frames = torch.cat([ends[0], clips, ends[1]], dim=1).unfold(1, self.window, self.hop)
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self._hann))
        # Squares of real and imaginary part stay side by side: the bank has each of its rows twice.
        power = spectrum.square_().flatten(2).flatten(0, 1)
        blocks = [torch.mm(power[:, part], bank) for part, bank in self._bank]
        return torch.cat(blocks, dim=1).clamp_(min=_FLOOR).log_().view(len(clips), -1, self.mels)

    @cached_property
    def _hann(self) -> Tensor:
        return torch.hann_window(self.window)

    @cached_property
    def _bank(self) -> list[tuple[slice, Tensor]]:
        bank = mel_bank(self.sample_rate, self.window // 2 + 1, self.mels)
        whole = torch.from_numpy(bank).float().repeat_interleave(2, dim=0)
        blocks = []
        for block in whole.split(math.ceil(self.mels / _BLOCKS), dim=1):
            rows = block.any(dim=1).nonzero().flatten().tolist() or [0]
            part = slice(rows[0], rows[-1] + 1)
            blocks.append((part, block[part].contiguous()))
        return blocks


def mel_bank(sample_rate: int, bins: int, mels: int) -> NDArray[np.float64]:
    """Triangles of equal width on the HTK mel scale, each as high as 1, from 0 Hz to half the sample rate.

    They are those of `transformers.audio_utils.mel_filter_bank` to the last bit, which a student that only
    reads sounds shall not need.

    Args:
        sample_rate: Hz.
        bins: Frequencies of the spectrum, 0 Hz and half the sample rate among them.
        mels: Bands.

    Returns:
        "bins mels".

    Source: Young et al., The HTK Book (3.4), section 5.4.
    """
    top = 2595.0 * np.log10(1.0 + sample_rate / 2 / 700.0)
    corners = 700.0 * (np.power(10, np.linspace(0.0, top, mels + 2) / 2595.0) - 1.0)
    apart = corners[None, :] - np.linspace(0, sample_rate // 2, bins)[:, None]
    widths = np.diff(corners)
    falling, rising = -apart[:, :-2] / widths[:-1], apart[:, 2:] / widths[1:]
    bank: NDArray[np.float64] = np.maximum(0.0, np.minimum(falling, rising))
    return bank
