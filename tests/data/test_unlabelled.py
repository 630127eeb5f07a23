"""A table without labels, by itself and beside one with labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_distill.data import (
    ByteTextProcessor,
    CrossDomainDataModule,
    ManifestSource,
    TextDataModule,
    Unlabelled,
)
from lightning_distill.structures import UNLABELLED


def table(folder: Path, name: str, header: str, rows: list[str]) -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_table_without_a_column_for_labels_is_a_domain_to_adapt_to(tmp_path: Path) -> None:
    old = table(tmp_path, "old.csv", "text,label", [f"old {i},{'ab'[i % 2]}" for i in range(40)])
    new = table(tmp_path, "new.csv", "text", [f"new {i}" for i in range(30)])
    sources = ManifestSource(old, {"text": "text"}), ManifestSource(new, {"text": "text"}, Unlabelled())
    assert sources[1].classes == ()
    data = CrossDomainDataModule(*(TextDataModule(s, {"text": ByteTextProcessor()}) for s in sources))
    assert tuple(data.source.classes) == ("a", "b")
    joined = data.joined.samples
    assert (joined.target[joined.domain == 1] == UNLABELLED).all()
    np.testing.assert_array_equal(np.unique(joined.target[joined.domain == 0]), [0, 1])
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    target = batch["target"][batch["in_target_domain"]]
    assert len(target)
    assert (target == UNLABELLED).all()


def test_a_column_of_labels_in_the_table_is_not_read(tmp_path: Path) -> None:
    path = table(tmp_path, "t.csv", "text,label", [f"t {i},{'ab'[i % 2]}" for i in range(20)])
    read = ManifestSource(path, {"text": "text"}, Unlabelled())
    assert len(read.samples) == 20
    assert (read.samples.target == UNLABELLED).all()
