"""The nouns everyone shares: what a batch holds and what a model returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError, nearest

UNLABELLED: Final = -100
"""Class index of a sample without a label (what `torch.nn.functional.cross_entropy` ignores)."""
UNKNOWN: Final = -1
"""Entry of a multilabel target that is not known."""


class Outputs(Enum):
    """What a model's logits stand for, and so which distances between them mean anything."""

    CLASSES = "one class a sample: a softmax over the logits"
    LABELS = "any number of labels a sample: a sigmoid of each logit"
    NUMBERS = "numbers, as they are"


Inputs = Tensor | dict[str, Tensor]
"""What one encoder reads: a tensor, or a dict of tensors such as token ids and their mask."""


class Tokens(NamedTuple):
    """A sequence of features for each sample.

    Attributes:
        values: float "batch tokens dim".
        mask: bool "batch tokens", False at padding.
    """

    values: Tensor
    mask: Tensor

    def mean(self) -> Tensor:
        """Mean over the tokens that are there, "batch dim"; 0 where there is none.

        >>> import torch
        >>> tokens = Tokens(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        >>> tokens.mean()
        tensor([[2.]])
        """
        there = self.mask[:, :, None]
        return self.values.masked_fill(~there, 0.0).sum(dim=1) / there.sum(dim=1).clamp(min=1)

    def first(self) -> Tensor:
        """Which is the first place of a sequence: bool "tokens"."""
        return torch.arange(self.mask.shape[1], device=self.mask.device) == 0


Feature = Tensor | Tokens
"""What an encoder makes of one modality: "batch dim", or a sequence."""


class Batch(TypedDict):
    """A plain dict, so that Lightning moves, pins and collates it without help.

    The kind of target is told by its type: int64 "batch" for one class a sample (`UNLABELLED` where there is
    no label), int8 "batch classes" for any number of classes (0, 1, or `UNKNOWN`), float32 "batch outputs"
    for numbers (NaN where not known).

    Attributes:
        inputs: modality -> tensor (or dict of tensors), first dimension "batch".
        present: modality -> bool tensor "batch"; False where the sample lacks that modality.
        target: What the student is to say, see above.
        sample_id: int64 tensor "batch", a stable content id, never a row number.
        domain: int64 tensor "batch", index into the data source's list of domains.
        weight: float32 tensor "batch", weight of each sample in the task's loss; 1 where not given.
        teacher_inputs: Like `inputs`, for modalities the teacher reads with other preprocessing.
        view: int64 tensor "batch", which of a fixed number of random views each sample shows; not there in
            evaluation, or where every epoch shows a new one.
        teacher_records: uint8 tensor "batch bytes", what a `CachedTeacher` has found on disk.
        in_target_domain: bool tensor "batch", whether each sample is of a domain to adapt to; not there where
            there is only one kind of domain.
    """

    inputs: dict[str, Inputs]
    present: dict[str, Tensor]
    target: Tensor
    sample_id: Tensor
    domain: Tensor
    weight: NotRequired[Tensor]
    teacher_inputs: NotRequired[dict[str, Inputs]]
    view: NotRequired[Tensor]
    teacher_records: NotRequired[Tensor]
    in_target_domain: NotRequired[Tensor]


@dataclass(frozen=True)
class ModelOutput:
    """What a model makes of a batch.

    Attributes:
        logits: float tensor "batch classes".
        embedding: float tensor "batch dim", the fused feature after clipping; None where a foreign model
            does not tell which of its tensors that is.
        features: modality -> float tensor "batch dim_m", one per encoder, after the
            modality's clip, zero where absent; the mean over tokens where the encoder gives such.
        extras: 0-d tensors worth logging, such as the saturated share of the fused feature.
        layers: Path of a module -> its output, for the layers that were asked for.
        present: modality -> bool tensor "batch", which features were there, after modality dropout.
        tokens: modality -> what was fused in the place of the feature, where the encoder gives tokens.
        unimodal: modality -> float tensor "batch classes", what the modality's own head says; it means
            nothing where the modality is absent. Empty without such heads.
    """

    logits: Tensor
    embedding: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    present: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: Mapping[str, Tokens] = field(default_factory=dict)
    unimodal: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def fused(self) -> dict[str, Feature]:
        """Modality -> what the fusion head has read."""
        return {**self.features, **self.tokens}

    def rows(self, rows: Tensor) -> ModelOutput:
        """The answer to some of the samples; `extras` are left out, since they are of the whole batch.

        Args:
            rows: int64 "samples".
        """
        return ModelOutput(
            self.logits[rows],
            None if self.embedding is None else self.embedding[rows],
            {m: x[rows] for m, x in self.features.items()},
            layers={path: x[rows] for path, x in self.layers.items()},
            present={m: there[rows] for m, there in self.present.items()},
            tokens={m: Tokens(x.values[rows], x.mask[rows]) for m, x in self.tokens.items()},
            unimodal={m: x[rows] for m, x in self.unimodal.items()},
        )

    def at(self, name: str) -> Tensor:
        """The tensor a distillation term asks for by name.

        Args:
            name: "logits", "embedding", "features.<modality>", or else the path of a module whose output was
                captured, such as "encoders.image.backbone.layer3".

        Raises:
            ConfigError: If there is no such tensor.

        >>> import torch
        >>> ModelOutput(torch.zeros(2, 3), features={"image": torch.ones(2, 8)}).at("features.image").shape
        torch.Size([2, 8])
        """
        known = {"logits": self.logits} | {f"features.{m}": x for m, x in self.features.items()}
        if self.embedding is not None:
            known["embedding"] = self.embedding
        known = {**self.layers, **known}
        if name not in known:
            raise ConfigError(
                where=f"layer {name!r}",
                found=f"a model that gives {', '.join(known)}{nearest(name, known)}",
                expected="the name of one of these, or the path of a module",
                fix="print the paths with [name for name, _ in model.named_modules()]",
            )
        return known[name]


OUTPUT_NAMES: Final = ("logits", "embedding")


def is_layer(name: str, modalities: Sequence[str]) -> bool:
    """Whether `ModelOutput.at(name)` must be captured from a module of that path.

    Args:
        name: As `ModelOutput.at` takes it.
        modalities: Those of the model.
    """
    return name not in OUTPUT_NAMES and name not in {f"features.{m}" for m in modalities}


def labelled_rows(target: Tensor) -> Tensor:
    """Which samples have a label, or at least a part of one: bool "batch".

    Args:
        target: As in `Batch`.

    >>> import torch
    >>> labelled_rows(torch.tensor([1, UNLABELLED, 0])).tolist()
    [True, False, True]
    >>> labelled_rows(torch.tensor([[0.5, torch.nan], [torch.nan, torch.nan]])).tolist()
    [True, False]
    """
    if target.is_floating_point():
        return target.isfinite().any(dim=1)
    return (target != UNKNOWN).any(dim=1) if target.ndim == 2 else target != UNLABELLED


def only_rows(target: Tensor, rows: Tensor) -> Tensor:
    """The target with the label of all other rows unknown.

    Args:
        target: As in `Batch`.
        rows: bool "batch".

    >>> import torch
    >>> only_rows(torch.tensor([1, 2, 0]), torch.tensor([True, False, True])).tolist()
    [1, -100, 0]
    """
    unknown = math.nan if target.is_floating_point() else UNKNOWN if target.ndim == 2 else UNLABELLED
    return target.masked_fill(~rows.view(-1, *[1] * (target.ndim - 1)), unknown)
