"""Encoders: one file a modality and backbone."""

from lightning_distill.encoders.audio_spectrogram import LogMelCNN
from lightning_distill.encoders.base import Encoder
from lightning_distill.encoders.image_cnn import ImageCNN
from lightning_distill.encoders.image_timm import TimmImageEncoder
from lightning_distill.encoders.text_cnn import ByteTextCNN
from lightning_distill.encoders.text_transformers import TransformersTextEncoder

__all__ = [
    "ByteTextCNN",
    "Encoder",
    "ImageCNN",
    "LogMelCNN",
    "TimmImageEncoder",
    "TransformersTextEncoder",
]
