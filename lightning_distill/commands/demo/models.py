"""The demo's preprocessing, models and recipe: small enough for two cores, the same for every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from lightning_distill.commands.demo.constants import LEARNING_RATE, STEPS
from lightning_distill.data import AudioProcessor, ByteTextProcessor, ImageProcessor, Processor
from lightning_distill.encoders import ByteTextCNN, Encoder, ImageCNN, LogMelCNN
from lightning_distill.feature_clipping import FeatureClip
from lightning_distill.model import MultimodalModel


def processors(modalities: Sequence[str]) -> dict[str, Processor]:
    """Preprocessing with augmentation, the same for teacher and students."""
    every: dict[str, Processor] = {
        "image": ImageProcessor(size=12, channels=1, max_shift=0.08, max_scale=0.2, max_rotation=15),
        "text": ByteTextProcessor(max_length=32),
        "audio": AudioProcessor(
            sample_rate=8000, seconds=0.7, mels=32, hop=0.02, dynamic_range=30.0, max_shift=0.1
        ),
    }
    return {modality: every[modality] for modality in modalities}


def encoder(modality: str, normalise_audio: bool = True) -> Encoder:
    """A small encoder, trained from scratch."""
    if modality == "image":
        return ImageCNN(channels=1, width=16)
    return ByteTextCNN(width=32) if modality == "text" else LogMelCNN(32, 8, normalise=normalise_audio)


def model(
    modalities: Sequence[str],
    feature_clip: FeatureClip | None = None,
    modality_dropout: float = 0.0,
    normalise_audio: bool = True,
) -> MultimodalModel:
    """A ten-class model that concatenates its modalities."""
    return MultimodalModel(
        {modality: encoder(modality, normalise_audio) for modality in modalities},
        num_classes=10,
        feature_clip=feature_clip,
        modality_dropout=modality_dropout,
    )


def adamw(learning_rate: float = LEARNING_RATE) -> Callable[[Iterable[Tensor]], Optimizer]:
    """AdamW with a little weight decay."""
    return partial(AdamW, lr=learning_rate, weight_decay=0.01)


def sgd(learning_rate: float) -> Callable[[Iterable[Tensor]], Optimizer]:
    """SGD with momentum."""
    return partial(SGD, lr=learning_rate, momentum=0.9)


def one_cycle(learning_rate: float, steps: int = STEPS) -> Callable[[Optimizer], LRScheduler]:
    """Up to the learning rate and down to almost nothing, step by step (Smith, 1708.07120)."""
    return partial(OneCycleLR, max_lr=learning_rate, total_steps=steps, cycle_momentum=False)
