"""Texts over several epochs: loaded and tokenised once, and every batch as if they were not kept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor

from lightning_distill.data import ByteTextProcessor, MultimodalDataModule, Processor, Shuffle, TextProcessor
from lightning_distill.data.token_processor import TokenProcessor
from lightning_distill.errors import ConfigError, SampleError
from lightning_distill.randomness import View
from tests.builders import VectorProcessor
from tests.data.test_text import save_bert
from tests.data.texts import Texts, epochs, some_texts

pytestmark = pytest.mark.filterwarnings("ignore:.*longer than max_length")
SIZE = 37


def make(
    source: Texts, processors: dict[str, Processor] | None = None, **options: Any
) -> MultimodalDataModule:
    seed_everything(5, verbose=False)
    return MultimodalDataModule(
        source, processors or {"text": ByteTextProcessor(50)}, batch_size=8, **options
    )


def assert_tokens(batch: Any, place: str, processor: TokenProcessor, source: Texts) -> None:
    """A batch holds what a fresh processor makes of its texts."""
    texts = [source.texts[row] for row in batch["sample_id"].tolist()]
    expected = processor.collate(
        [processor.blank() if text is None else processor.prepare(text) for text in texts]
    )
    assert batch["present"]["text"].tolist() == [text is not None for text in texts]
    found = batch[place]["text"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def some_absent(count: int = SIZE) -> list[str | None]:
    return [None if row % 6 == 2 else text for row, text in enumerate(some_texts(count))]


@pytest.mark.parametrize(
    "options", [{}, {"num_workers": 2}, {"in_memory": True}, {"in_memory": True, "num_workers": 1}]
)
def test_each_text_is_loaded_once_and_has_its_tokens_in_every_epoch(tmp_path: Path, options: Any) -> None:
    source = Texts(some_absent(), val=5, log=tmp_path / "log")
    number: Processor = VectorProcessor(1, noise=0)
    texts, theirs = ByteTextProcessor(50), str(save_bert(tmp_path / "bert"))
    data = make(
        source,
        {"text": texts, "number": number},
        teacher_processors={"text": TextProcessor(theirs, 12)},
        **options,
    )
    found = epochs(data, 3)
    assert all(sum(len(batch["target"]) for batch in epoch) == SIZE - 5 for epoch in found)
    for batch in (batch for epoch in found for batch in epoch):
        assert batch["inputs"]["number"].flatten().tolist() == batch["sample_id"].tolist()
        assert_tokens(batch, "inputs", ByteTextProcessor(50), source)
        assert_tokens(batch, "teacher_inputs", TextProcessor(theirs, 12), source)
    training = [row for row in range(SIZE - 5) if source.texts[row] is not None]
    assert [row for row in source.loaded() if row < SIZE - 5] == training


def test_texts_alone_are_not_read_again(tmp_path: Path) -> None:
    source = Texts(some_texts(SIZE), log=tmp_path / "log")
    processor = ByteTextProcessor(50)
    for batch in (batch for epoch in epochs(make_with_val(source, processor), 3) for batch in epoch):
        assert_tokens(batch, "inputs", ByteTextProcessor(50), source)
    assert source.loaded() == list(range(SIZE))[:-4]
    assert processor.seen == SIZE - 4


def make_with_val(source: Texts, processor: TokenProcessor, **options: Any) -> MultimodalDataModule:
    source._table.split[-4:] = 1
    return make(source, {"text": processor}, **options)


def test_one_step_tokenises_one_batch() -> None:
    """A million rows cost nothing before they are used."""
    source, processor = Texts(some_texts(500), val=1), ByteTextProcessor(50)
    data = make(source, {"text": processor})
    data.setup("fit")
    next(iter(data.train_dataloader()))
    assert processor.seen == 8


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"in_memory": True}])
def test_bad_texts_are_replaced_in_every_epoch_anew(options: Any) -> None:
    size = 420
    source = Texts(some_texts(size), val=4, bad=[7, 90])
    data = make(source, on_bad_sample="substitute", **options)
    seen = []
    for batch in (batch for epoch in epochs(data, 3) for batch in epoch):
        assert not {7, 90} & set(batch["sample_id"].tolist())
        assert_tokens(batch, "inputs", ByteTextProcessor(50), source)
        seen.append(len(batch["sample_id"]))
    assert sum(seen) == 3 * (size - 4)


def test_a_bad_text_stops_training_in_the_epoch_it_comes_up() -> None:
    data = make(Texts(some_texts(SIZE), val=4, bad=[7]))
    with pytest.raises(SampleError, match="row 7"):
        epochs(data, 1)


@pytest.mark.parametrize("options", [{}, {"in_memory": True}])
def test_a_batch_is_as_wide_as_its_own_longest_text(options: Any) -> None:
    texts = ["a" * (1 + row) for row in range(40)]
    source = Texts(texts, val=1)
    found = epochs(make(source, **options), 2)
    widths = [
        (b["inputs"]["text"]["input_ids"].shape[1], int(b["sample_id"].max()) + 2) for e in found for b in e
    ]
    assert all(width == longest for width, longest in widths)
    assert len(set(widths)) > 2


class Bag(Processor):
    """Somebody's own ragged modality: numbers up to a row's own, padded with -1."""

    def prepare(self, raw: Any, view: View | None = None) -> list[int]:
        return list(range(int(raw[0]) + 1))

    def blank(self) -> list[int]:
        return []

    def collate(self, prepared: Sequence[list[int]]) -> dict[str, Tensor]:
        width = max(map(len, prepared))
        return {"numbers": torch.tensor([row + [-1] * (width - len(row)) for row in prepared])}


def test_memory_pads_a_batch_of_anything_to_its_own_longest() -> None:
    source = Texts(some_texts(600), val=4)
    disk, memory = (epochs(make(source, {"number": Bag()}, in_memory=kept), 2) for kept in (False, True))
    for one, other in zip(chain(*disk), chain(*memory), strict=True):
        assert one["sample_id"].tolist() == other["sample_id"].tolist()
        assert torch.equal(one["inputs"]["number"]["numbers"], other["inputs"]["number"]["numbers"])


def test_what_a_processor_makes_anew_is_not_kept() -> None:
    class Shouting(ByteTextProcessor):
        @property
        def varies(self) -> bool:
            return True

        def prepare(self, raw: str, view: View | None = None) -> Any:
            return super().prepare(raw.upper() if view is not None and view.epoch % 2 else raw, view)

    source = Texts(["ab"] * 9, val=1)
    found = epochs(make(source, {"text": Shouting(9)}), 2)
    assert [{*e[0]["inputs"]["text"]["input_ids"][:, 0].tolist()} for e in found] == [
        {ord("a") + 3},
        {ord("A") + 3},
    ]


def test_lengths_are_known_without_a_step() -> None:
    texts: list[str | None] = ["a" * n for n in (3, 0, 9, 60)]
    source = Texts([*texts, None, "x", "bb"], val=1, bad=[5])
    data = make(source, {"text": ByteTextProcessor(50), "number": VectorProcessor(1)}, sampling=Shuffle())
    data.setup("fit")
    assert data.dataset("train").lengths("text").tolist() == [4, 1, 10, 50, 1, 0]
    with pytest.raises(ConfigError, match=r"number.*\['text'\]"):
        data.dataset("train").lengths("number")
    assert np.array_equal(data.dataset("train").lengths("text"), data.dataset("train").lengths("text"))
