"""Kept tokens: those of the processor, whoever made them, in 2 or 4 bytes each."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from lightning_distill.data import ByteTextProcessor, TextProcessor
from lightning_distill.data.token_processor import TokenProcessor
from lightning_distill.data.token_store import TokenStore
from lightning_distill.errors import ConfigError
from tests.data.test_text import save_bert, save_gpt2
from tests.data.texts import some_texts

pytestmark = pytest.mark.filterwarnings("ignore:.*longer than max_length")


def save_typed(folder: Path) -> Path:
    """Tokens of types 1 and 2, with padding before them, much as XLNet has it."""
    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "<cls>": 2, "a": 3, "cat": 4}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("$A:1 <cls>:2", special_tokens=[("<cls>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenProcessor]:
    top = tmp_path_factory.mktemp("tokenizers")
    left = {"pad_token": "<|endoftext|>", "padding_side": "left", "truncation_side": "left"}
    ByT5Tokenizer(extra_ids=0).save_pretrained(top / "byt5")
    return {
        "wordpiece": TextProcessor(str(save_bert(top / "bert")), 20),
        "left, none for the empty text": TextProcessor(str(save_gpt2(top / "left", **left)), 30),
        "typed": TextProcessor(str(save_typed(top / "typed")), 9),
        "slow": TextProcessor(str(top / "byt5"), 12),
        "bytes": ByteTextProcessor(40),
    }


NAMES = ("wordpiece", "left, none for the empty text", "typed", "slow", "bytes")


def prepared(processor: TokenProcessor, count: int = 40) -> list[str]:
    return [processor.prepare(text) for text in some_texts(count)]


def fill(store: TokenStore, texts: list[str], start: int, stop: int, size: int = 7) -> None:
    for at in range(start, stop, size):
        positions = np.arange(at, min(at + size, stop))
        store.add(positions, [texts[position] for position in positions])


def assert_kept(store: TokenStore, texts: list[str], at: list[int]) -> None:
    expected = store.processor.collate([texts[position] for position in at])
    found = store.batch(np.array(at))
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype == torch.int64
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("name", NAMES)
@given(at=st.lists(st.integers(0, 39), min_size=1, max_size=12))
def test_kept_tokens_are_those_of_the_processor(
    name: str, at: list[int], makers: dict[str, TokenProcessor]
) -> None:
    texts = prepared(makers[name])
    store = TokenStore(makers[name], len(texts))
    fill(store, texts, 0, len(texts))
    assert_kept(store, texts, at)
    assert store.length(np.array(at)).tolist() == [
        len(makers[name].tokens([texts[position]]).ids) for position in at
    ]


def test_types_are_kept_with_the_tokens(makers: dict[str, TokenProcessor]) -> None:
    processor = makers["typed"]
    store = TokenStore(processor, 3)
    store.add(np.array([2, 0]), ["a cat", "cat"])
    batch = store.batch(np.array([0, 2]))
    assert batch["input_ids"].tolist() == [[0, 4, 2], [3, 4, 2]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 2], [1, 1, 2]]
    theirs = processor.tokenizer(["cat", "a cat"], padding=True, return_tensors="pt")  # type: ignore[attr-defined]
    assert all(torch.equal(batch[key], value) for key, value in theirs.items())


def test_what_is_not_there_is_known(makers: dict[str, TokenProcessor]) -> None:
    store = TokenStore(makers["left, none for the empty text"], 5)
    store.add(np.array([1, 3]), ["", "ab"])
    assert store.has(np.arange(5)).tolist() == [False, True, False, True, False]
    assert store.length(np.arange(5)).tolist() == [0, 0, 0, 2, 0]
    assert store.batch(np.array([1]))["attention_mask"].tolist() == [[1]]


@pytest.mark.parametrize(
    ("name", "bytes_each"),
    [("bytes", 2), ("left, none for the empty text", 2), ("wordpiece", 2), ("typed", 4)],
)
def test_a_token_takes_2_bytes_or_4_with_its_type(
    name: str, bytes_each: int, makers: dict[str, TokenProcessor]
) -> None:
    texts = prepared(makers[name])
    store = TokenStore(makers[name], len(texts))
    fill(store, texts, 0, len(texts))
    tokens = int(store.length(np.arange(len(texts))).sum())
    size = sum(file.stat().st_size for file in store.folder.iterdir())
    assert size == bytes_each * (tokens + 1) + 8 * len(texts)


def in_processes(work: Callable[[int], None], count: int) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0


def test_processes_fill_one_store_at_once(makers: dict[str, TokenProcessor]) -> None:
    processor = makers["bytes"]
    texts = prepared(processor, 1200)
    store = TokenStore(processor, len(texts))
    store.add(np.array([0]), texts[:1])  # opened here, before the others start

    def work(number: int) -> None:
        fill(store, texts, 400 * number, 400 * number + 400, 3)
        assert_kept(store, texts, [0, 400 * number + 7])

    in_processes(work, 3)
    assert store.has(np.arange(len(texts))).all()
    assert_kept(store, texts, list(range(len(texts))))


def test_a_process_that_was_sent_the_store_sees_the_same_one(makers: dict[str, TokenProcessor]) -> None:
    processor = makers["wordpiece"]
    texts = prepared(processor)
    store = TokenStore(processor, len(texts))
    fill(store, texts, 0, 20)
    other = pickle.loads(pickle.dumps(store))
    fill(other, texts, 20, 40)
    for one in (store, other):
        assert_kept(one, texts, [39, 0, 20])


def test_files_go_with_the_process_that_made_them(makers: dict[str, TokenProcessor]) -> None:
    store = TokenStore(makers["bytes"], 4)
    folder = store.folder
    copy = pickle.loads(pickle.dumps(store))
    del copy

    def drop(number: int) -> None:
        nonlocal store
        del store
        gc.collect()

    in_processes(drop, 1)
    assert sorted(os.listdir(folder)) == ["ids", "places"]
    del store
    gc.collect()
    assert not folder.exists()


def test_a_process_that_ends_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = []

    def work(number: int) -> None:
        kept.append(TokenStore(ByteTextProcessor(9), 4))
        assert kept[0].folder.exists()

    in_processes(work, 1)
    assert not list(tmp_path.iterdir())


def test_no_room_is_told(makers: dict[str, TokenProcessor], monkeypatch: pytest.MonkeyPatch) -> None:
    store = TokenStore(makers["bytes"], 4)
    store._writer = os.getpid(), FileIO("/dev/full", "a")
    with pytest.raises(ConfigError, match="TMPDIR"):
        store.add(np.array([0]), [b"a"])
    assert not store.has(np.arange(4)).any()
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(ConfigError, match=r"no room in /nowhere.*TMPDIR"):
        TokenStore(makers["bytes"], 4)
