"""Texts as tokens: of a Hugging Face tokenizer, or bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lightning_distill.data.token_processor import TYPE_SHIFT, Padding, TokenProcessor, Tokens
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

    def portable_init_args(self, folder: Path) -> Mapping[str, Any]:
        """The tokenizer's files, in the folder."""
        self.tokenizer.save_pretrained(folder)
        return {"tokenizer": str(folder)}

    @property
    def identity(self) -> object:
        """All rules of the tokenizer: its vocabulary alone does not tell how it takes a text apart."""
        tokenizer = self.tokenizer
        if not tokenizer.is_fast:
            return dict(self.settings), type(tokenizer)
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        told = {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}
        return self.max_length, tokenizer.truncation_side, json.dumps(told, sort_keys=True)

    def _prepare(self, text: str) -> str:
        return text

    def blank(self) -> str:
        """The empty text."""
        return ""

    @cached_property
    def padding(self) -> Padding:
        """That of the tokenizer."""
        tokenizer = self.tokenizer
        kind = tokenizer.pad_token_type_id if "token_type_ids" in tokenizer.model_input_names else None
        return Padding(tokenizer.pad_token_id, kind, tokenizer.padding_side == "left")

    @cached_property
    def typed(self) -> bool:
        """Whether tokens of single texts have other types than 0.

        Tokenizers give types by the place a token has in a template, so one text tells.
        """
        return self.padding.type is not None and any(self.tokenizer("a")["token_type_ids"])

    @cached_property
    def id_type(self) -> type[np.unsignedinteger[Any]]:
        """uint16 where all ids fit and types are 0."""
        if self.typed:
            return np.uint32
        return np.uint16 if max(self.tokenizer.get_vocab().values()) < 2**16 else np.uint32

    def tokens(self, prepared: Sequence[str]) -> Tokens:
        """Tokens of some texts, special ones included."""
        texts = list(prepared)
        rows = self._encoded(texts) if self.tokenizer.is_fast else self._encoded_slowly(texts)
        length = np.fromiter(map(len, rows["input_ids"]), np.int64, len(texts))
        ids = np.fromiter(chain.from_iterable(rows["input_ids"]), self.id_type, int(length.sum()))
        if self.typed:
            types = np.fromiter(chain.from_iterable(rows["token_type_ids"]), np.uint32, len(ids))
            ids |= types << TYPE_SHIFT
        return Tokens(ids, length)

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
        if self.typed:
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


class ByteTextProcessor(TokenProcessor):
    """Bytes as tokens (UTF-8): no vocabulary, any language, nothing to load.

    The tokens are those of ByT5: 0 pads, 1 ends the text, 3 + byte otherwise; 259 in all. No text can stand
    for a special token: `</s>` is four bytes.

    >>> processor = ByteTextProcessor()
    >>> processor.collate([processor.prepare("ab"), processor.blank()])["input_ids"].tolist()
    [[100, 101, 1], [1, 0, 0]]

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

    @property
    def padding(self) -> Padding:
        """0 after the text."""
        return Padding(0)

    @property
    def id_type(self) -> type[np.unsignedinteger[Any]]:
        """uint16."""
        return np.uint16

    def tokens(self, prepared: Sequence[bytes]) -> Tokens:
        """Tokens of some texts, with the end token of each."""
        self.count_cuts(sum(len(text) == self.max_length for text in prepared), len(prepared))
        texts = [text[: self.max_length - 1] for text in prepared]
        length = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
        ids = np.frombuffer(b"\0".join(texts) + b"\0", np.uint8).astype(np.uint16) + np.uint16(3)
        ids[np.cumsum(length) - 1] = 1
        return Tokens(ids, length)
