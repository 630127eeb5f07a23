"""A source of texts in memory that counts how often they are loaded, by whatever process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_distill.data import DataSource, MultimodalDataModule, SampleTable
from lightning_distill.errors import SampleError

ANIMALS = ("a", "cat", "dogs", "die katze", ".", "a cat a dog", "dog " * 9, "", "xyz", "a " * 30)


def some_texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(ANIMALS, rng.integers(1, 5))) for _ in range(count)]


class Texts(DataSource):
    """Row i is text i; None is absent there, and a row in `bad` cannot be read."""

    classes = ("one", "two")

    def __init__(
        self, texts: Sequence[str | None], val: int = 0, bad: Sequence[int] = (), log: Path | None = None
    ) -> None:
        size = len(texts)
        self.texts, self.bad, self.log = texts, bad, log
        self._table = SampleTable(
            sample_id=np.arange(size),
            target=np.arange(size) % 2,
            split=(np.arange(size) >= size - val).astype(np.int8),
            domain=np.zeros(size, np.int64),
            present={
                "text": np.array([text is not None for text in texts]),
                "number": np.ones(size, np.bool_),
            },
        )

    @property
    def samples(self) -> SampleTable:
        return self._table

    def load(self, modality: str, row: int) -> Any:
        if modality == "number":
            return np.full(1, row, np.float64)
        if row in self.bad:
            raise SampleError(where=f"row {row}", found="damage", expected="none", fix="repair it")
        if self.log is not None:
            file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, f"{row}\n".encode())
            os.close(file)
        return self.texts[row]

    def loaded(self) -> list[int]:
        assert self.log is not None
        return sorted(map(int, self.log.read_text().split())) if self.log.exists() else []


def epochs(data: MultimodalDataModule, count: int, split: str = "train") -> list[list[Any]]:
    data.setup("fit")
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    found = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        found.append(list(loader))
    return found
