"""Texts: tokenise per batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.data.token_processor import TokenProcessor
from lightning_distill.errors import ConfigError

_BYTE_TOKENS = 259


class TextProcessor(TokenProcessor):
    """Tokenises with a Hugging Face tokenizer, a batch at a time, padded to the longest of the batch.

    The tokens are those of the tokenizer's own call with `padding=True, truncation=True`, but a text without
    any token gets one padding token to attend to, since a mean over no tokens is undefined.

    Args:
        tokenizer: Hub name such as `bert-base-uncased`, or a local folder. No code from it is run.
        max_length: Tokens after which a text is cut, special tokens counted.

    Raises:
        ConfigError: At setup, if the tokenizer cannot be loaded, is to be run by code of its own, has no
            padding token, or adds more special tokens than `max_length`.
    """

    def __init__(self, tokenizer: str, max_length: int = 128) -> None:
        super().__init__(max_length)
        self.name = tokenizer

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded when first used."""
        import transformers

        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.name, trust_remote_code=False)
        except Exception as error:  # a broken file may raise anything, down to Rust's own exceptions
            raise self._unusable(
                f"{self.name!r}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                "a folder with tokenizer files, or a hub name and a network",
                "save one with tokenizer.save_pretrained(folder) and give that folder",
            ) from error
        if tokenizer.init_kwargs.get("auto_map"):
            raise self._unusable(
                f"{self.name!r}, which is to be run by code that comes with it (auto_map)",
                "a tokenizer that transformers itself can run",
                "use another tokenizer, or save this one as a tokenizer.json without auto_map",
            )
        if tokenizer.pad_token_id is None:
            raise self._unusable(
                f"{self.name!r} has no padding token",
                "one, since a batch is padded",
                "set one and save: tokenizer.pad_token = tokenizer.eos_token; save_pretrained(folder)",
            )
        special = tokenizer.num_special_tokens_to_add()
        if special >= self.max_length:
            raise self._unusable(
                f"max_length={self.max_length}, and {special} special tokens a text",
                "a length that leaves room for text",
                "give a larger max_length",
            )
        return tokenizer

    def _unusable(self, found: str, expected: str, fix: str) -> ConfigError:
        return ConfigError(where=f"{type(self).__name__}.tokenizer", found=found, expected=expected, fix=fix)

    def check(self) -> None:
        """Load the tokenizer.

        Raises:
            ConfigError: If it cannot be used.
        """
        _ = self.tokenizer

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The tokenizer's name, its largest length, and its vocabulary's size and hash."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        return {
            "tokenizer": self.name,
            "max_length": self.max_length,
            "vocabulary_size": len(vocabulary),
            "vocabulary": hashlib.blake2b(repr(vocabulary).encode(), digest_size=8).hexdigest(),
        }

    def _prepare(self, text: str) -> str:
        return text

    def blank(self) -> str:
        """The empty text."""
        return ""

    def collate(self, prepared: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and, for tokenizers that have them, `token_type_ids`.

        Returns:
            Each int64 "batch tokens".
        """
        tokenizer, texts = self.tokenizer, list(prepared)
        rows = self._encoded(texts) if tokenizer.is_fast else self._encoded_slowly(texts)
        length = np.array([len(row) for row in rows["input_ids"]])
        pads = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        at = np.arange(max(length.max(), 1))
        if tokenizer.padding_side == "left":
            at = at[::-1]
        real = at < length[:, None]
        tokens = {key: _padded(rows[key], real, pads[key]) for key in rows}
        mask = torch.from_numpy((at < np.maximum(length, 1)[:, None]).astype(np.int64))
        return tokens | {"attention_mask": mask}

    def _encoded(self, texts: list[str]) -> dict[str, list[list[int]]]:
        """By the Rust tokenizer itself, which spares the conversions of `transformers`."""
        tokenizer = self.tokenizer
        backend = tokenizer.backend_tokenizer
        backend.enable_truncation(self.max_length, direction=tokenizer.truncation_side)
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        found = backend.encode_batch_fast(texts)
        rows = {"input_ids": [encoding.ids for encoding in found]}
        full = [
            encoding
            for encoding, ids in zip(found, rows["input_ids"], strict=True)
            if len(ids) == self.max_length
        ]
        self.count_cuts(sum(bool(encoding.overflowing) for encoding in full), len(texts))
        if "token_type_ids" in tokenizer.model_input_names:
            rows["token_type_ids"] = [encoding.type_ids for encoding in found]
        return rows

    def _encoded_slowly(self, texts: list[str]) -> dict[str, list[list[int]]]:
        """By a tokenizer written in Python, which does not tell what it cut."""
        tokens = self.tokenizer(texts, verbose=False)
        long = [at for at, row in enumerate(tokens["input_ids"]) if len(row) > self.max_length]
        self.count_cuts(len(long), len(texts))
        rows = {key: tokens[key] for key in ("input_ids", "token_type_ids") if key in tokens}
        for at in long:
            cut = self.tokenizer(texts[at], truncation=True, max_length=self.max_length)
            for key in rows:
                rows[key][at] = cut[key]
        return rows


def _padded(rows: list[list[int]], real: NDArray[np.bool_], pad: int) -> Tensor:
    out = np.full(real.shape, pad, np.int64)
    out[real] = np.fromiter(chain.from_iterable(rows), np.int64, int(real.sum()))
    return torch.from_numpy(out)


class ByteTextProcessor(TokenProcessor):
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
        super().__init__(max_length)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Like those of `TextProcessor`."""
        return {
            "tokenizer": "bytes",
            "max_length": self.max_length,
            "vocabulary_size": _BYTE_TOKENS,
            "vocabulary": "UTF-8",
        }

    def _prepare(self, text: str) -> bytes:
        """The text's bytes, cut; one more than is used tells that there were more."""
        return text.encode()[: self.max_length]

    def blank(self) -> bytes:
        """The empty text."""
        return b""

    def collate(self, prepared: Sequence[bytes]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, int64 "batch tokens", padded to the longest of the batch.

        >>> processor = ByteTextProcessor()
        >>> processor.collate([processor.prepare("ab"), processor.blank()])["input_ids"].tolist()
        [[100, 101, 1], [1, 0, 0]]
        """
        self.count_cuts(sum(len(text) == self.max_length for text in prepared), len(prepared))
        texts = [text[: self.max_length - 1] for text in prepared]
        length = np.array([len(text) for text in texts])
        column = np.arange(length.max() + 1)
        ids = np.zeros((len(texts), len(column)), np.int64)
        ids[column < length[:, None]] = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) + 3
        ids[np.arange(len(texts)), length] = 1
        mask = (column <= length[:, None]).astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
