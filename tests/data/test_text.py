"""Texts: bytes as ByT5 numbers them, tokenizers from a folder, and tokenizers that cannot be used."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizerFast, ByT5Tokenizer, GPT2TokenizerFast

from lightning_distill.data import ByteTextProcessor, TextProcessor
from lightning_distill.errors import ConfigError
from lightning_distill.identity import identity_of

pytestmark = pytest.mark.filterwarnings("ignore:.*longer than max_length")
ANY_TEXT = st.text(max_size=30)  # with surrogates, control characters and NUL
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


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "##s", "die", "katze", "."]


def save_bert(folder: Path, words: list[str] = WORDS, **options: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), **options).save_pretrained(folder)
    return folder


def save_gpt2(folder: Path, **options: object) -> Path:
    """Bytes as tokens, without any special token around a text."""
    folder.mkdir(exist_ok=True)
    letters = {character: at for at, character in enumerate([*map(chr, range(33, 127)), "\u0120"])}
    (folder / "vocab.json").write_text(json.dumps(letters | {"<|endoftext|>": len(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = GPT2TokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), **options
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_bert(tmp_path / "bert")


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextProcessor]:
    top = tmp_path_factory.mktemp("tokenizers")
    left = {"pad_token": "<|endoftext|>", "padding_side": "left", "truncation_side": "left"}
    byt5 = top / "byt5"
    ByT5Tokenizer(extra_ids=0).save_pretrained(byt5)
    return {
        "wordpiece": TextProcessor(str(save_bert(top / "bert")), 6),
        "left": TextProcessor(str(save_gpt2(top / "left", **left)), 9),
        "slow": TextProcessor(str(byt5), 12),
    }


@pytest.mark.parametrize("name", ["wordpiece", "left", "slow"])
@given(batch=st.lists(st.text(st.characters(codec="utf-8"), min_size=1) | st.just("a cat dogs."), min_size=1))
def test_tokens_are_those_of_the_call_of_transformers(
    name: str, batch: list[str], processors: dict[str, TextProcessor]
) -> None:
    processor = processors[name]
    batch = [text for text in map(processor.prepare, batch) if processor.tokenizer(text)["input_ids"]]
    if not batch:
        return
    options = {"padding": True, "truncation": True, "max_length": processor.max_length}
    expected = processor.tokenizer(batch, return_tensors="pt", **options)
    found = processor.collate(batch)
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


def test_the_slow_and_the_fast_path_are_taken(processors: dict[str, TextProcessor]) -> None:
    assert processors["wordpiece"].tokenizer.is_fast
    assert processors["left"].tokenizer.is_fast
    assert not processors["slow"].tokenizer.is_fast


@pytest.mark.parametrize("name", ["wordpiece", "left", "slow"])
@given(batch=st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_T3_any_characters_become_tokens(
    name: str, batch: list[str], processors: dict[str, TextProcessor]
) -> None:
    for processor in (processors[name], ByteTextProcessor(9)):
        found = processor.collate([processor.prepare(text) for text in batch])
        mask = found["attention_mask"]
        assert found["input_ids"].shape == mask.shape == (len(batch), int(mask.sum(1).max()))
        assert (mask.sum(1) >= 1).all()


def test_T3_surrogates() -> None:
    """Half a pair stands for nothing and is replaced; a pair given in halves is put together."""
    processor = ByteTextProcessor()
    assert processor.prepare("a\ud800b") == "a\ufffdb".encode()
    assert processor.prepare("\ud83d\ude00") == "\N{GRINNING FACE}".encode()
    assert processor.prepare("\0\u202etxt\x1b") == "\0\u202etxt\x1b".encode()


def test_what_is_no_text_is_refused() -> None:
    for raw in (3, None, b"a", ["a"]):
        with pytest.raises(ValueError, match="no text"):
            ByteTextProcessor().prepare(raw)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", " ", "\n\t \u00a0\u3000"])
def test_T1_blanks_are_the_empty_text(text: str, folder: Path) -> None:
    for processor in (TextProcessor(str(folder)), ByteTextProcessor()):
        found = processor.collate([processor.prepare(text), processor.prepare("a")])
        empty = processor.collate([processor.blank(), processor.prepare("a")])
        assert all(torch.equal(found[key], empty[key]) for key in empty)
        assert found["attention_mask"][0].sum() >= 1


def test_T1_unknown_words_are_unknown_tokens(folder: Path) -> None:
    processor = TextProcessor(str(folder))
    found = processor.collate([processor.prepare("\u4e03 xyz")])
    assert found["input_ids"].tolist() == [[2, 1, 1, 3]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_T6_a_text_without_tokens_has_one_to_attend_to(tmp_path: Path, side: str) -> None:
    folder = save_gpt2(tmp_path / "gpt2", pad_token="<|endoftext|>", padding_side=side)
    processor = TextProcessor(str(folder))
    for batch in (["", "ab"], ["", ""]):
        found = processor.collate([processor.prepare(text) for text in batch])
        assert found["input_ids"][0, 0] == processor.tokenizer.pad_token_id
        assert found["attention_mask"].sum(1).tolist() == [1, max(len(batch[1]), 1)]
        assert found["attention_mask"][0, -1 if side == "left" else 0] == 1


@pytest.fixture
def told() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


@pytest.mark.parametrize("name", ["wordpiece", "left", "slow", "bytes"])
def test_T2_truncation_is_counted_and_told_once(
    name: str, processors: dict[str, TextProcessor], told: list[warnings.WarningMessage]
) -> None:
    processor = ByteTextProcessor(5) if name == "bytes" else processors[name]
    processor = type(processor)(*([5] if name == "bytes" else [processors[name].name, 5]))
    for batch in (["a", "."], ["a cat dogs.", ".", "dog cat dog cat"], ["a cat a dog a cat"]):
        processor.collate([processor.prepare(text) for text in batch])
    assert (processor.seen, processor.truncated) == (6, 3)
    ours = [str(one.message) for one in told if "max_length" in str(one.message)]
    assert len(ours) == 1
    assert "2 of 3 texts" in ours[0]


def test_T2_a_text_of_a_megabyte(folder: Path, told: list[warnings.WarningMessage]) -> None:
    for processor in (TextProcessor(str(folder), 8), ByteTextProcessor(8)):
        found = processor.collate([processor.prepare("a cat " * 170_000), processor.prepare("a dog")])
        assert found["input_ids"].shape == (2, 8)
        assert (processor.seen, processor.truncated) == (2, 1)
    assert len([one for one in told if "max_length" in str(one.message)]) == 2


def test_texts_of_just_the_largest_length_are_not_cut(folder: Path) -> None:
    for processor, text in ((TextProcessor(str(folder), 5), "a cat dog"), (ByteTextProcessor(4), "abc")):
        processor.collate([processor.prepare(text)])
        assert processor.truncated == 0
        processor.collate([processor.prepare(text + " a")])
        assert processor.truncated == 1


def test_settings_tell_tokenizers_apart(tmp_path: Path) -> None:
    one = TextProcessor(str(save_bert(tmp_path / "one")), 8).settings
    again = TextProcessor(str(save_bert(tmp_path / "one")), 8).settings
    other = TextProcessor(str(save_bert(tmp_path / "two", [*WORDS[:-2], "katzen", "."])), 8).settings
    assert dict(one) == dict(again)
    assert one["vocabulary"] != other["vocabulary"]
    assert one["vocabulary_size"] == other["vocabulary_size"] == len(WORDS)
    assert one["max_length"] == 8
    assert ByteTextProcessor(8).settings["vocabulary_size"] == 259


def test_a_processor_goes_to_a_worker(folder: Path) -> None:
    processor = TextProcessor(str(folder))
    processor.check()
    copy = pickle.loads(pickle.dumps(processor))
    assert torch.equal(copy.collate(["a cat"])["input_ids"], processor.collate(["a cat"])["input_ids"])


def test_a_tokenizer_from_a_folder_pads_and_cuts(folder: Path) -> None:
    processor = TextProcessor(str(folder), max_length=4)
    found = processor.collate([processor.prepare("a cat"), processor.blank(), "a dog a cat a dog"])
    assert found["input_ids"].shape == (3, 4)
    assert found["attention_mask"].sum(1).tolist() == [4, 2, 4]


def refused(folder: Path | str, words: str, max_length: int = 128) -> None:
    with pytest.raises(ConfigError, match=rf"TextProcessor\.tokenizer: found .*{words}"):
        TextProcessor(str(folder), max_length).check()


def test_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "nothing.*save_pretrained")


def test_T4_a_tokenizer_without_padding(tmp_path: Path) -> None:
    refused(save_gpt2(tmp_path / "gpt2"), "has no padding token")


def test_T4_the_end_token_may_pad(tmp_path: Path) -> None:
    processor = TextProcessor(str(save_gpt2(tmp_path / "gpt2", pad_token="<|endoftext|>")))
    processor.check()
    found = processor.collate(["ab", "a"])
    assert found["attention_mask"].tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("tokenizer_class", ["BertTokenizer", "Own", None])
@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": ["own.Own", "own.Own"]}, ["own.Own", None]])
def test_T7_code_that_comes_with_a_tokenizer_is_not_run(
    folder: Path, tokenizer_class: str | None, auto_map: object
) -> None:
    mark = folder / "was_run"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": auto_map, "tokenizer_class": tokenizer_class}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    refused(folder, "auto_map|code")
    assert not mark.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": 3}', '{"version": "1.0", "model": {}}'])
def test_a_broken_tokenizer_file(folder: Path, content: str) -> None:
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_text(content)
    refused(folder, "")


def test_a_length_out_of_range(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"ByteTextProcessor.max_length"):
        ByteTextProcessor(0)
    refused(folder, "max_length=2, and 2 special tokens", max_length=2)


def test_C3_an_identity_is_all_rules_of_the_tokenizer_and_not_its_place(tmp_path: Path) -> None:
    """Same words, another way to take a text apart: a teacher's answers to the one are none to the other."""

    def processor(name: str, **options: object) -> TextProcessor:
        return TextProcessor(str(save_bert(tmp_path / name, **options)), 8)

    same, moved = processor("a", do_lower_case=True), processor("b", do_lower_case=True)
    other = processor("c", do_lower_case=False)
    assert same.settings["vocabulary"] == other.settings["vocabulary"]
    before = identity_of(same)
    same.collate([same.prepare("Cat " * 20)])  # sets truncation in the tokenizer itself
    assert identity_of(same) == before == identity_of(moved)
    assert identity_of(other) != before
    assert identity_of(TextProcessor(same.name, 9)) != before
