"""Processors that were described are made again, and prepare as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import ByT5Tokenizer

from lightning_distill.data import (
    AudioProcessor,
    ByteTextProcessor,
    ImageProcessor,
    ImageViews,
    OwnView,
    Processor,
    SpecAugment,
    TextProcessor,
    Waveform,
)
from lightning_distill.errors import CheckpointError
from lightning_distill.shipping.preprocessing import described, processors_of
from tests.builders import VectorProcessor, same_bits
from tests.data.test_text import save_bert, save_gpt2


class Brighter(ImageProcessor):
    """A user's own, with an argument of its own."""

    def __init__(self, size: int, gain: float) -> None:
        super().__init__(size)
        self.gain = gain

    def prepare(self, raw: NDArray[np.uint8], view: Any = None) -> torch.Tensor:
        return super().prepare((raw * self.gain).clip(0, 255).astype(np.uint8), view)


class Forgetful(VectorProcessor):
    """Does not keep what it was given."""

    def __init__(self, scale: float) -> None:
        super().__init__(4)


class Halved(ByteTextProcessor):
    """Keeps another value under an argument's name, which its constructor would take for the argument."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__(8)
        self.share = share / 2


class Few(VectorProcessor):
    """Refuses what it keeps."""

    def __init__(self, share: float = 0.5) -> None:
        if share > 1:
            raise ZeroDivisionError
        super().__init__(4)
        self.share = 100 * share


class Open(VectorProcessor):
    """Takes anything."""

    def __init__(self, **options: Any) -> None:
        super().__init__(4)


def again(processor: Processor, folder: Path) -> Processor:
    """Described, and made from that; files of before are not needed."""
    spec = described({"m": processor}, ["m"], folder)
    content = {"processors": spec, "preprocessing": {"m": dict(processor.settings)}}
    return processors_of(content, ["m"], ("lightning_distill", "tests"), folder / "config.json")["m"]


PICTURES = [np.random.default_rng(i).integers(0, 256, (9 + 7 * i, 13, 3), dtype=np.uint8) for i in range(5)]
SOUNDS = [
    Waveform(np.random.default_rng(i).normal(0, 0.1, 900 + 611 * i).astype(np.float32), rate)
    for i, rate in enumerate((8000, 11025, 44100))
]
MADE: list[tuple[Processor, list[Any]]] = [
    (ImageProcessor(8, 1, 0.1, 0.1, 5.0, True, ImageViews()), PICTURES),
    (ImageProcessor(11), PICTURES),
    (OwnView(ImageProcessor(8)), PICTURES),
    (Brighter(8, 1.7), PICTURES),
    (AudioProcessor(8000, 0.2, 7, max_shift=0.1, spec_augment=SpecAugment()), SOUNDS),
    (AudioProcessor(11_025, 0.123, 5, 0.0301, 0.0107, 60.0), SOUNDS),
    (ByteTextProcessor(5), ["a", "seven", "", "é" * 9]),
]


@pytest.mark.parametrize(("processor", "raw"), MADE, ids=[type(p).__name__ for p, _ in MADE])
def test_tensors_are_equal_to_the_bit(processor: Processor, raw: list[Any], tmp_path: Path) -> None:
    made = again(processor, tmp_path)
    assert made.settings == processor.settings
    assert not made.augments or isinstance(made, ByteTextProcessor)
    one, other = (p.collate([*map(p.prepare, raw), p.blank()]) for p in (processor, made))
    if isinstance(one, dict):
        assert isinstance(other, dict)
        assert all(same_bits(x, other[name]) for name, x in one.items())
    else:
        assert same_bits(one, other)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 1001])
def test_lengths_of_sounds_come_back(rate: int) -> None:
    for length in range(max(rate // 50, 3), rate, max(rate // 97, 1)):
        window, hop = max(length // 3, 1), max(length // 7, 1)
        first = AudioProcessor(rate, length / rate, 4, window / rate, hop / rate)
        spec = described({"m": first}, ["m"], Path("x"))["m"]
        assert AudioProcessor(**spec["init_args"]).settings == first.settings


def tokenizer(kind: str, folder: Path) -> TextProcessor:
    if kind == "slow":
        ByT5Tokenizer(extra_ids=0).save_pretrained(folder)
        return TextProcessor(str(folder), 12)
    if kind == "left":
        options = {"pad_token": "<|endoftext|>", "padding_side": "left", "truncation_side": "left"}
        return TextProcessor(str(save_gpt2(folder, **options)), 9)
    return TextProcessor(str(save_bert(folder)), 6)


@pytest.mark.parametrize("kind", ["wordpiece", "left", "slow"])
def test_tokenizers_come_along(kind: str, tmp_path: Path) -> None:
    processor, texts = tokenizer(kind, tmp_path / "words"), ["a cat", "", "die katze . a dog " * 3]
    one = processor.collate([processor.prepare(text) for text in texts])  # leaves its cut in the tokenizer
    spec = described({"m": processor}, ["m"], tmp_path / "student")
    (tmp_path / "words").rename(tmp_path / "elsewhere")
    content = {"processors": spec, "preprocessing": {"m": dict(processor.settings)}}
    made = processors_of(content, ["m"], ["lightning_distill"], tmp_path / "config.json")["m"]
    other = made.collate([made.prepare(text) for text in texts])
    assert isinstance(other, dict)
    assert one.keys() == other.keys()
    assert all(same_bits(x, other[name]) for name, x in one.items())
    if kind != "slow":
        assert made.identity == processor.identity
    files = [path for path in (tmp_path / "student").rglob("*") if path.is_file()]
    assert files
    assert all(path.parent == tmp_path / "student" / "tokenizer" / "m" for path in files)
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in files), "no path of this machine"


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    processor = tokenizer("wordpiece", tmp_path / "words")
    spec = described({"m": processor}, ["m"], tmp_path / "student")
    content = {"processors": spec, "preprocessing": {"m": {**processor.settings, "vocabulary": "other"}}}
    with pytest.raises(
        CheckpointError, match=r"vocabulary .*vocabulary other, as the student was trained with"
    ):
        processors_of(content, ["m"], ["lightning_distill"], tmp_path / "config.json")


def test_what_cannot_be_told_is_left_out(tmp_path: Path) -> None:
    class Local(VectorProcessor):
        """Of a function."""

    left: dict[str, Processor] = {
        "a": Forgetful(2.0),
        "b": Open(),
        "c": Local(4),
        "f": Halved(1.0),
        "g": Few(),
    }
    told = described({**left, "d": VectorProcessor(4, 0.5), "e": ByteTextProcessor()}, "abcdfg", tmp_path)
    assert told == {
        "d": {"class_path": "tests.builders.VectorProcessor", "init_args": {"dim": 4, "noise": 0.5}}
    }
    content = {"processors": told, "preprocessing": {}}
    with pytest.raises(CheckpointError, match=r"what prepares a, b, c, f, g.*portable_init_args"):
        processors_of(content, ["a", "b", "c", "d", "f", "g"], ["tests"], tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"packages=\['tests'\]"):
        processors_of(content, ["d"], ["lightning_distill"], tmp_path / "config.json")
    assert isinstance(processors_of(content, ["d"], ["tests"], tmp_path)["d"], VectorProcessor)
