"""Texts: bytes as ByT5 numbers them, tokenizers from a folder, and tokenizers that cannot be used."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizerFast, ByT5Tokenizer, GPT2TokenizerFast

from lightning_distill.data import ByteTextProcessor, TextProcessor
from lightning_distill.errors import ConfigError

texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.lists(texts, min_size=1, max_size=5), st.integers(2, 90))
def test_bytes_are_numbered_as_in_byt5(batch: list[str], max_length: int) -> None:
    """Xue et al., section 3.1: 0 pads, 1 ends, 2 is unknown, so that byte b has id b + 3."""
    processor = ByteTextProcessor(max_length)
    found = processor.collate([processor.prepare(text) for text in batch])
    rows = [[*(b + 3 for b in text.encode()[: max_length - 1]), 1] for text in batch]
    width = max(map(len, rows))
    padded = [row + [0] * (width - len(row)) for row in rows]
    assert found["input_ids"].tolist() == padded
    assert found["attention_mask"].tolist() == [[int(i < len(row)) for i in range(width)] for row in rows]
    assert found["input_ids"].dtype == torch.int64


def test_bytes_are_numbered_as_by_transformers() -> None:
    batch = ["seven", "sept, сім, 七", "", "x" * 70]
    processor = ByteTextProcessor()
    found = processor.collate([processor.prepare(text) for text in batch])
    options = {"padding": True, "truncation": True, "max_length": 64, "return_tensors": "pt"}
    for key, value in ByT5Tokenizer(extra_ids=0)(batch, **options).items():
        assert torch.equal(found[key], value)


def test_characters_that_look_like_special_tokens_are_bytes() -> None:
    processor = ByteTextProcessor()
    batch = ["</s>", "a<pad>b", ""]
    found = processor.collate([processor.prepare(text) for text in batch])
    assert found["attention_mask"].sum(1).tolist() == [5, 8, 1]
    assert bytes((found["input_ids"][1, :7] - 3).tolist()) == b"a<pad>b"


def test_a_text_that_has_no_bytes_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        ByteTextProcessor().prepare("\ud800")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    return tmp_path


def test_a_tokenizer_from_a_folder_pads_and_cuts(folder: Path) -> None:
    processor = TextProcessor(str(folder), max_length=4)
    found = processor.collate([processor.prepare("a cat"), processor.blank(), "a dog a cat a dog"])
    assert found["input_ids"].shape == (3, 4)
    assert found["attention_mask"].sum(1).tolist() == [4, 2, 4]


def test_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    processor = TextProcessor(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"TextProcessor.tokenizer.*nothing.*save_pretrained"):
        processor.collate(["a"])


def test_a_tokenizer_without_padding(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "<|endoftext|>": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = GPT2TokenizerFast(vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt"))
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="has no padding token"):
        TextProcessor(str(tmp_path)).collate(["a"])


def test_code_that_comes_with_a_tokenizer_is_not_run(folder: Path) -> None:
    mark = folder / "was_run"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    config = (folder / "tokenizer_config.json").read_text()
    changed = config.replace("{", '{"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]},', 1)
    (folder / "tokenizer_config.json").write_text(changed)
    with suppress(ConfigError):
        TextProcessor(str(folder)).collate(["a"])
    assert not os.path.exists(mark)


def test_a_length_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"ByteTextProcessor.max_length"):
        ByteTextProcessor(0)
