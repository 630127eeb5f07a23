"""Small random models in local folders, as the libraries save pretrained ones."""

from __future__ import annotations

from pathlib import Path

import timm
import transformers


def save_bert(folder: Path) -> Path:
    """A two-layer BERT over byte tokens."""
    config = transformers.BertConfig(
        vocab_size=260,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def save_timm(folder: Path, name: str = "test_resnet", channels: int = 3) -> Path:
    """A timm model, by timm's own function."""
    model = timm.create_model(name, in_chans=channels)
    timm.models.save_for_hf(model, str(folder), safe_serialization=True)
    return folder
