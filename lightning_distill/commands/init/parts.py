"""Encoder and processor of each modality, chosen from what was measured and from what is on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from lightning_distill.commands.init.measures import Images, Sounds, Texts

Number = TypeVar("Number", int, float)
Spec = dict[str, Any]
"""`class_path` and `init_args`, as in a config."""

_RESNET: Final = ("resnet18", "timm/resnet18.a1_in1k")
_TEXT_MODELS: Final = (
    "sentence-transformers/all-MiniLM-L6-v2",
    "google-bert/bert-base-uncased",
    "bert-base-uncased",
)
_MOST_TOKENS: Final = 256


@dataclass(frozen=True)
class Part:
    """What one modality needs in a config.

    Attributes:
        encoder: Of the student.
        processor: Of the DataModule.
        why: What it was chosen from, one line.
        bytes: Of one prepared sample.
        pretrained: Whether the encoder starts from weights on disk.
    """

    encoder: Spec
    processor: Spec
    why: str
    bytes: int
    pretrained: bool = False


def image_part(seen: Images) -> Part:
    """A ResNet where its weights are on disk, else a small CNN at about the size of the images."""
    told = f"image: {seen.count} images looked at, their shorter side is {seen.side} pixels in the median"
    name, repo = _RESNET
    if _on_disk(repo, "model.safetensors", "config.json"):
        encoder = _spec("TimmImageEncoder", model_name=name, pretrained=True)
        size, why = 224, f"{told}; the weights of {repo} are on disk"
    else:
        encoder = _spec("ImageCNN", channels=3)
        size, why = _between(32, 16 * round(seen.side / 16), 96), f"{told}; the encoder starts from scratch"
    processor = _spec("ImageProcessor", size=size, channels=3, max_shift=0.1, max_scale=0.1)
    return Part(encoder, processor, why, 3 * size**2, size == 224)


def text_part(seen: Texts) -> Part:
    """A transformer where one is on disk, else a CNN over bytes."""
    told = f"text: {seen.count} texts looked at, 95 % have {seen.length} bytes or fewer"
    name = next((name for name in _TEXT_MODELS if _is_text_model(name)), None)
    if name is not None:
        length = _between(16, 16 * math.ceil(seen.length / 3 / 16), _MOST_TOKENS)
        processor = _spec("TextProcessor", tokenizer=name, max_length=length)
        why = f"{told}; the weights of {name} are on disk"
        encoder = _spec("TransformersTextEncoder", model=name, pretrained=True)
        return Part(encoder, processor, why, 24 * length, pretrained=True)
    length = _between(16, 16 * math.ceil((seen.length + 1) / 16), 2 * _MOST_TOKENS)
    why = f"{told}; the encoder starts from scratch"
    return Part(_spec("ByteTextCNN"), _spec("ByteTextProcessor", max_length=length), why, 16 * length)


def audio_part(seen: Sounds) -> Part:
    """A CNN over log-mel spectrograms as long as most of the sounds."""
    rate = min(16_000, seen.rate) or 16_000
    seconds = _between(0.2, math.ceil(10 * seen.seconds - 1e-6) / 10, 10.0) if seen.count else 1.0
    mels = 40 if rate >= 16_000 else 32
    why = (
        f"audio: {seen.count} sounds looked at, {seen.rate} Hz in the median, 95 % have {seen.seconds:.2f} s "
        "or less; the encoder starts from scratch"
    )
    processor = _spec("AudioProcessor", sample_rate=rate, seconds=seconds, mels=mels, max_shift=0.1)
    return Part(_spec("LogMelCNN", mels=mels), processor, why, int(4 * mels * (1 + seconds / 0.016)))


def _spec(class_path: str, **init_args: Any) -> Spec:
    return {"class_path": class_path, "init_args": init_args} if init_args else {"class_path": class_path}


def _between(least: Number, value: Number, most: Number) -> Number:
    return max(least, min(value, most))


def _is_text_model(repo: str) -> bool:
    if not _on_disk(repo, "model.safetensors", "config.json"):
        return False
    return _on_disk(repo, "tokenizer.json") or _on_disk(repo, "vocab.txt")


def _on_disk(repo: str, *files: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repo, file) for file in files]
    return all(isinstance(path, str) and Path(path).is_file() for path in found)
