"""What a student says of one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lightning_distill.structures import Outputs


@dataclass(frozen=True, eq=False)
class Prediction:
    """An answer to one sample, on the CPU.

    Attributes:
        label: Name of the most likely class; None for any number of labels, and for numbers.
        labels: Names of all classes it is said to be of: one, or those more likely than not; none for
            numbers.
        probabilities: Class -> probability, in the order of the logits; empty for numbers.
        numbers: Name -> number, for regression; else empty.
        logits: float "outputs".
        embedding: float "dim", the fused feature; None where the model tells none.
    """

    label: str | None
    labels: tuple[str, ...]
    probabilities: Mapping[str, float]
    numbers: Mapping[str, float]
    logits: Tensor = field(repr=False)
    embedding: Tensor | None = field(repr=False)


def told(logits: Tensor, embedding: Tensor | None, classes: Sequence[str], outputs: Outputs) -> Prediction:
    """What the logits of a sample say.

    Args:
        logits: float "outputs".
        embedding: float "dim".
        classes: Names of the outputs.
        outputs: What they stand for.

    >>> import torch
    >>> told(torch.tensor([2.0, -1.0]), None, ["a", "b"], Outputs.LABELS).labels
    ('a',)
    """
    if outputs is Outputs.NUMBERS:
        return Prediction(None, (), {}, dict(zip(classes, logits.tolist(), strict=True)), logits, embedding)
    if outputs is Outputs.LABELS:
        likely = logits.float().sigmoid()
        label, labels = None, tuple(name for name, p in zip(classes, likely, strict=True) if p > 0.5)
    else:
        likely = logits.float().softmax(dim=0)
        label = classes[int(logits.argmax())]
        labels = (label,)
    probabilities = dict(zip(classes, likely.tolist(), strict=True))
    return Prediction(label, labels, probabilities, {}, logits, embedding)
