"""What a teacher that never saw a label of the target knows about both domains of a pair.

On speech and emoji it is a linear head on what pretrained encoders make of every modality the target has, fit
to the source's labels. On handwriting no modality helps, and it is a network of `cross_domain_handwriting`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from cross_domain_data import DomainPair, PoolSource
from cross_domain_features import features_of
from cross_domain_handwriting import Answers, handwriting_answers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.data.source import SPLITS
from lightning_distill.knowledge_writing import Origin, write_arrays

PENALTY: Final = 0.1
"""Weight decay of the head: (PENALTY / 2) |W|^2 beside the mean cross-entropy."""
FARTHEST: Final = 5.0
"""Standard deviations a feature can be away from its mean."""
SCALE: Final = {"text": 1.0, "image": 0.4, "audio": 1.0}
"""Size of a modality's standardised features: it weighs them against others. Both were chosen by five-fold
cross-validation over concepts of the source."""


def knowledge(pair: DomainPair, work: Path, seed: int, text: bool = True) -> Path:
    """The folder with a teacher's answers to the training and validation samples of both domains.

    Args:
        pair: Its target labels are not read.
        work: Folder in which it is kept, and what pretrained encoders gave.
        seed: That of the pair.
        text: Let the teacher read names, where the pair has some.
    """
    modalities = [m for m in pair.source.modalities if text or m != "text"]
    name = f"{pair.name.replace(' ', '_')}.{'+'.join(modalities)}.{seed}"

    def write(folder: Path) -> None:
        pretrained = pair.modality == "audio" or "text" in pair.source.modalities
        told = _pretrained(pair, modalities, work) if pretrained else handwriting_answers(pair, seed)
        ids = np.concatenate([s.samples.sample_id[_trained(s)] for s in (pair.source, pair.target)])
        arrays = {"logits": told.logits.numpy(), "embedding": told.embedding.numpy()}
        write_arrays(folder, ids, arrays, pair.classes, origin=Origin("train,val"))

    return _once(work / "knowledge" / name, write)


def _once(folder: Path, write: Callable[[Path], object]) -> Path:
    """Write a folder if it is not there; of processes that do so at once the first one counts."""
    if not folder.exists():
        own = folder.with_name(f"{folder.name}.{os.getpid()}")
        write(own)
        try:
            own.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            shutil.rmtree(own)
    return folder


def _trained(source: PoolSource) -> NDArray[np.int64]:
    """Rows that are not for testing."""
    return np.flatnonzero(source.samples.split != SPLITS.index("test"))


# -- a linear head on pretrained features -------------------------------------------------------------


def _pretrained(pair: DomainPair, modalities: Sequence[str], work: Path) -> Answers:
    source, target = pair.source, pair.target
    rows = _trained(source), _trained(target)
    learnt = torch.from_numpy(source.samples.split[rows[0]] == SPLITS.index("train"))
    parts: tuple[list[Tensor], list[Tensor]] = [], []
    for modality in modalities:
        ours, theirs = (
            _features(s, modality, at, work) for s, at in zip((source, target), rows, strict=True)
        )
        reference = ours[learnt]
        parts[0].append(SCALE[modality] * _standardised(ours, reference))
        # Drawings and voices of a domain have a mean and a scale of their own; names are of one language.
        parts[1].append(SCALE[modality] * _standardised(theirs, reference if modality == "text" else theirs))
    first, second = (torch.cat(part, dim=1) for part in parts)
    target_of = torch.from_numpy(source.samples.target[rows[0]])
    head = _fit(first[learnt], target_of[learnt], len(pair.classes))
    embedding = torch.cat([first, second])
    with torch.no_grad():
        return Answers(head(embedding), embedding)


def _features(source: PoolSource, modality: str, rows: NDArray[np.int64], work: Path) -> Tensor:
    pool = source.pool
    return torch.from_numpy(features_of(pool.name, modality, pool.items[modality], work)[source.rows[rows]])


def _standardised(x: Tensor, reference: Tensor) -> Tensor:
    """Zero mean and unit deviation in the reference; clipped, as some features are nearly always 0."""
    return ((x - reference.mean(dim=0)) / reference.std(dim=0).clamp(min=1e-4)).clamp(-FARTHEST, FARTHEST)


def _fit(x: Tensor, target: Tensor, classes: int) -> nn.Linear:
    """The head of the least cross-entropy with penalty; convex, so that no seed matters."""
    head = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(head(x), target) + PENALTY / 2 * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return head
