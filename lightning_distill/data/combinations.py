"""One DataModule per modality combination."""

from __future__ import annotations

from lightning_distill.data.base import MultimodalDataModule


class ImageDataModule(MultimodalDataModule):
    """Images."""

    modalities = ("image",)


class TextDataModule(MultimodalDataModule):
    """Texts."""

    modalities = ("text",)


class AudioDataModule(MultimodalDataModule):
    """Sounds."""

    modalities = ("audio",)


class ImageTextDataModule(MultimodalDataModule):
    """Images and texts."""

    modalities = ("image", "text")


class ImageAudioDataModule(MultimodalDataModule):
    """Images and sounds."""

    modalities = ("image", "audio")


class TextAudioDataModule(MultimodalDataModule):
    """Texts and sounds."""

    modalities = ("text", "audio")


class ImageTextAudioDataModule(MultimodalDataModule):
    """Images, texts and sounds."""

    modalities = ("image", "text", "audio")
