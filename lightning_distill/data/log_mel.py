"""Log-mel spectrograms of a batch of clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
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
        from transformers.audio_utils import mel_filter_bank

        bins, top = self.window // 2 + 1, self.sample_rate / 2
        bank = mel_filter_bank(bins, self.mels, 0.0, top, self.sample_rate, mel_scale="htk")
        whole = torch.from_numpy(bank).float().repeat_interleave(2, dim=0)
        blocks = []
        for block in whole.split(math.ceil(self.mels / _BLOCKS), dim=1):
            rows = block.any(dim=1).nonzero().flatten().tolist() or [0]
            part = slice(rows[0], rows[-1] + 1)
            blocks.append((part, block[part].contiguous()))
        return blocks
