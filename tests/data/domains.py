"""Small domains for the tests of cross-domain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_distill.data import CrossDomainDataModule, MultimodalDataModule, Processor
from tests.builders import CLASSES, DIMS, VectorProcessor, VectorSource


def vectors(
    first: int = 5000, classes: Sequence[str] = CLASSES, table: dict[str, Any] | None = None, **options: Any
) -> VectorSource:
    """A source whose sample ids start at `first`; `table` replaces columns."""
    source = VectorSource(**options)
    source.classes = tuple(classes)
    ids = first + np.arange(len(source.samples))
    source._table = replace(source.samples, **({"sample_id": ids} | (table or {})))
    return source


def domain(
    source: VectorSource, modalities: Sequence[str] = ("a", "b"), noise: float = 0.1, **options: Any
) -> MultimodalDataModule:
    processors: dict[str, Processor] = {m: VectorProcessor(DIMS[m], noise) for m in modalities}
    return MultimodalDataModule(source, processors, **({"batch_size": 4} | options))


def cross(**options: Any) -> CrossDomainDataModule:
    """A source of 28 training rows (7 batches), a target of 11 (3 batches) without training labels."""
    defaults: dict[str, Any] = {
        "source": domain(vectors()),
        "target": domain(vectors(7000, train=11, val=6, unlabelled=range(11))),
    }
    return CrossDomainDataModule(**(defaults | options))
