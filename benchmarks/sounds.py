"""Log-mel spectrograms of clips of a second at 16 kHz, 80 bands: against `torch.stft` and feature extractors.

    python benchmarks/sounds.py --out benchmarks/results/sounds.json

The peers are one batched `torch.stft` without any bands, and the Whisper and AST extractors of transformers.
All take the same clips, 64 at a time, in one run, one thread, process CPU time, in rotated order; a ratio is
the median over the rounds, with the least and the largest. The clips are noise, which
changes no cost.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import ASTFeatureExtractor, WhisperFeatureExtractor

sys.path.insert(0, str(Path(__file__).parent))
import turns

from lightning_distill.data import AudioProcessor

RATE, BATCH, WINDOW, HOP, MELS = 16_000, 64, 400, 160, 80
PACKAGES = ("lightning_distill", "torch", "transformers", "numpy")


def ours(clips: Sequence[Tensor]) -> Callable[[], None]:
    processor = AudioProcessor(RATE, 1.0, mels=MELS, window=WINDOW / RATE, hop=HOP / RATE)

    def work() -> None:
        for start in range(0, len(clips), BATCH):
            processor.collate(clips[start : start + BATCH])

    return work


def stft(clips: Sequence[Tensor]) -> Callable[[], None]:
    hann = torch.hann_window(WINDOW)

    def work() -> None:
        for start in range(0, len(clips), BATCH):
            batch = torch.stack(list(clips[start : start + BATCH]))
            torch.stft(batch, WINDOW, HOP, window=hann, return_complex=True)

    return work


def extractor(clips: Sequence[NDArray[np.float32]], of: Any) -> Callable[[], None]:
    def work() -> None:
        for start in range(0, len(clips), BATCH):
            of(list(clips[start : start + BATCH]), sampling_rate=RATE, return_tensors="pt")

    return work


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sounds.json"))
    parser.add_argument("--count", type=int, default=256, help="clips")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.1, RATE).astype(np.float32) for _ in range(options.count)]
    tensors = [torch.from_numpy(clip) for clip in clips]
    variants = {
        "ours": ours(tensors),
        "torch.stft": stft(tensors),
        "WhisperFeatureExtractor": extractor(
            clips, WhisperFeatureExtractor(feature_size=MELS, chunk_length=1)
        ),
        "ASTFeatureExtractor": extractor(clips, ASTFeatureExtractor(num_mel_bins=MELS, max_length=100)),
    }
    seconds = turns.cpu_seconds(variants, options.rounds)
    note = f"{options.count} clips of 1 s at 16 kHz, windows of 25 ms every 10 ms, 80 bands"
    result = turns.report(seconds, len(clips), "torch.stft", PACKAGES, note)
    turns.write(options.out, result)
    turns.show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
