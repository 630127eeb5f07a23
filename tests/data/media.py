"""Small real images and sounds as bytes, and batches to compare."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import cv2
import numpy as np
import soundfile
import torch
from torch import Tensor

from lightning_distill.data import AudioProcessor, ByteTextProcessor, ImageProcessor, MultimodalDataModule
from lightning_distill.structures import Batch
from tests.builders import same_bits


def png(seed: int) -> bytes:
    """An image of noise, 10 x 12."""
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


def wav(seed: int) -> bytes:
    """A quarter second of noise, 8 kHz."""
    buffer = BytesIO()
    soundfile.write(buffer, np.random.default_rng(seed).normal(0, 0.1, 2000), 8000, format="WAV")
    return buffer.getvalue()


def make_module(source: Any, **options: Any) -> MultimodalDataModule:
    """All modalities of a source, augmented where that is cheap."""
    processors: dict[str, Any] = {
        "image": ImageProcessor(8, 3, max_shift=0.2),
        "text": ByteTextProcessor(),
        "audio": AudioProcessor(8000, 0.25, mels=8, max_shift=0.2),
    }
    chosen = {modality: processors[modality] for modality in source.modalities}
    return MultimodalDataModule(source, chosen, **({"batch_size": 4} | options))


def batches(module: MultimodalDataModule, split: str = "train", epochs: int = 2) -> list[Batch]:
    """All batches of some epochs, from one loader."""
    module.setup("fit")
    loader = module.train_dataloader() if split == "train" else module.val_dataloader()
    found = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        found += list(loader)
    return found


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    """Equal to the last bit."""
    assert len(one) == len(other) > 0
    for mine, theirs in zip(one, other, strict=True):
        a, b = _flat(mine), _flat(theirs)
        assert a.keys() == b.keys()
        assert all(same_bits(a[name], b[name]) for name in a), [n for n in a if not torch.equal(a[n], b[n])]


def _flat(value: Any, name: str = "") -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {name: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{name}/{key}").items()}
