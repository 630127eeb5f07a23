"""Texts: tokenise per batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_distill.data.processor import Processor
from lightning_distill.errors import ConfigError


class TextProcessor(Processor):
    """Tokenises with a Hugging Face tokenizer, a batch at a time, padded to the longest of the batch.

    Args:
        tokenizer: Hub name such as `bert-base-uncased`, or a local folder. No code from it is run.
        max_length: Tokens after which a text is cut.

    Raises:
        ConfigError: When first used, if the tokenizer cannot be loaded or has no padding token.
    """

    def __init__(self, tokenizer: str, max_length: int = 128) -> None:
        if max_length < 1:
            raise ConfigError(
                where=f"{type(self).__name__}.max_length",
                found=max_length,
                expected="1 or more",
                fix="try 128",
            )
        self.name, self.max_length = tokenizer, max_length

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded when first used."""
        import transformers

        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                where=f"{type(self).__name__}.tokenizer",
                found=f"{self.name!r}: {str(error).splitlines()[0]}",
                expected="a folder with tokenizer files, or a hub name and a network",
                fix="save one with tokenizer.save_pretrained(folder) and give that folder",
            ) from error
        if tokenizer.pad_token_id is None:
            raise ConfigError(
                where=f"{type(self).__name__}.tokenizer",
                found=f"{self.name!r} has no padding token",
                expected="one, since a batch is padded",
                fix="set one and save: tokenizer.pad_token = tokenizer.eos_token; save_pretrained(folder)",
            )
        return tokenizer

    def prepare(self, raw: str) -> str:
        """Nothing to do for one text."""
        return raw

    def blank(self) -> str:
        """The empty text."""
        return ""

    def collate(self, prepared: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (and what else the tokenizer gives), int64 "batch tokens"."""
        tokens = self.tokenizer(
            list(prepared), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return dict(tokens)


class ByteTextProcessor(Processor):
    """Bytes as tokens (UTF-8): no vocabulary, any language, nothing to load.

    The tokens are those of ByT5: 0 pads, 1 ends the text, 3 + byte otherwise; 259 in all. No text can stand
    for a special token: `</s>` is four bytes.

    Args:
        max_length: Tokens after which a text is cut, its end token counted.

    Raises:
        ConfigError: If the length is out of range.

    Source: Xue et al., ByT5 (2105.13626), section 3.1.
    """

    def __init__(self, max_length: int = 64) -> None:
        if max_length < 1:
            raise ConfigError(
                where="ByteTextProcessor.max_length", found=max_length, expected="1 or more", fix="try 64"
            )
        self.max_length = max_length

    def prepare(self, raw: str) -> bytes:
        """The text's bytes, cut."""
        return raw.encode()[: self.max_length - 1]

    def blank(self) -> bytes:
        """The empty text."""
        return b""

    def collate(self, prepared: Sequence[bytes]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, int64 "batch tokens", padded to the longest of the batch.

        >>> processor = ByteTextProcessor()
        >>> processor.collate([processor.prepare("ab"), processor.blank()])["input_ids"].tolist()
        [[100, 101, 1], [1, 0, 0]]
        """
        length = np.array([len(text) for text in prepared])
        column = np.arange(length.max() + 1)
        ids = np.zeros((len(prepared), len(column)), np.int64)
        ids[column < length[:, None]] = np.frombuffer(b"".join(prepared), np.uint8).astype(np.int64) + 3
        ids[np.arange(len(prepared)), length] = 1
        mask = (column <= length[:, None]).astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
