"""Fused knowledge, and what fusion has changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_distill.knowledge import Knowledge
from lightning_distill.knowledge_fusion.base import Floats, FusionContext
from lightning_distill.knowledge_writing import Origin, write_arrays
from lightning_distill.structures import UNLABELLED


@dataclass(frozen=True)
class FusionNumbers:
    """What fusion did to the answers about the new domain; "before" is the mean of the teachers.

    Attributes:
        samples: In the folder.
        target_samples: Of them in the new domain.
        known_labels: Of these with a label that training sees.
        changed: Samples of the new domain whose likeliest class is another one than before.
        entropy_before: Mean entropy of the answers, nats.
        entropy_after: The same of the fused answers.
        counts_before: Samples of the new domain a class, by the likeliest class.
        counts_after: The same after.
        agreement_before: Share of the known labels with which the teachers agree; None without such labels.
        agreement_after: Share with which the steps agree where that label is hidden from them: each half of
            the known labels is told from the other half.
    """

    samples: int
    target_samples: int
    known_labels: int
    changed: int
    entropy_before: float
    entropy_after: float
    counts_before: list[int]
    counts_after: list[int]
    agreement_before: float | None
    agreement_after: float | None


@dataclass(frozen=True)
class FusedKnowledge:
    """Knowledge about the new domain, and how it came about.

    Attributes:
        sample_id: int64 "samples", ascending.
        logits: float64 "samples classes", logarithms of the fused probabilities.
        embedding: float "samples dim", of the first teacher; None where it has none.
        classes: Names in the order of the logits, where known.
        numbers: What changed.
        origin: Goes into knowledge.json.
    """

    sample_id: NDArray[np.int64]
    logits: Floats
    embedding: NDArray[Any] | None
    classes: tuple[str, ...] | None
    numbers: FusionNumbers
    origin: Origin

    def write(self, folder: Path | str, dtype: Literal["float16", "float32"] = "float16") -> Knowledge:
        """Write it as a folder, for `StoredTeacher`.

        Args:
            folder: Must not exist.
            dtype: float16 halves the folder.

        Raises:
            ConfigError: If the folder exists.
        """
        arrays = {"logits": self.logits} | ({} if self.embedding is None else {"embedding": self.embedding})
        return write_arrays(folder, self.sample_id, arrays, self.classes, dtype, self.origin)


def numbers_of(
    before: Floats, after: Floats, context: FusionContext, held_out: float | None
) -> FusionNumbers:
    """Compare the answers.

    Args:
        before: float64 "samples classes", the mean of the teachers.
        after: The fused ones.
        context: Of the samples.
        held_out: Becomes `agreement_after`.
    """
    target, classes = context.target, before.shape[1]
    known = target & (context.label != UNLABELLED)
    said, fused = before.argmax(axis=1), after.argmax(axis=1)
    agreed = float((said == context.label)[known].mean()) if known.any() else None
    return FusionNumbers(
        samples=len(before),
        target_samples=int(target.sum()),
        known_labels=int(known.sum()),
        changed=int((said != fused)[target].sum()),
        entropy_before=_entropy(before[target]),
        entropy_after=_entropy(after[target]),
        counts_before=np.bincount(said[target], minlength=classes).tolist(),
        counts_after=np.bincount(fused[target], minlength=classes).tolist(),
        agreement_before=agreed,
        agreement_after=held_out,
    )


def _entropy(probabilities: Floats) -> float:
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))  # 0 log 0 is 0
    return float(-(probabilities * logs).sum(axis=1).mean())
