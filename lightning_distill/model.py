"""The model both teacher and student are: encoders, their clips, fusion, feature clip, task head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_distill.absence import all_there, blank, drop_modalities
from lightning_distill.encoders import Encoder
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.feature_clipping import FeatureClip
from lightning_distill.fusion import ConcatFusion, FusionHead
from lightning_distill.structures import Batch, Inputs, ModelOutput


class MultimodalModel(nn.Module):
    """y = g(clip(fuse(c1(f1(image)), c2(f2(text)), c3(f3(audio))))), for any set of modalities.

    It reads from a batch only the modalities it has an encoder for, so a student with fewer modalities
    than its teacher reads the same batch. The `features` it returns are those after their clips, which is
    what fusion and distillation terms see.

    Args:
        encoders: modality -> encoder f_m.
        num_classes: Logits to return: a class each, or a number each.
        fusion: Makes the fusion head from {modality: width}.
        feature_clip: Bound on the fused feature; None leaves it free.
        modality_dropout: Probability with which each modality of each training sample is treated as absent;
            at least one that is there stays. It makes every encoder learn on its own.
        modality_clips: modality -> clip c_m of its encoder's feature, or of the gradient that reaches the
            encoder, before fusion; modalities without one stay free.

    Raises:
        ConfigError: If there is no encoder, no output, a probability outside [0, 1), or a clip for a modality
            without encoder.

    >>> from lightning_distill.encoders import ImageCNN, LogMelCNN
    >>> model = MultimodalModel({"image": ImageCNN(), "audio": LogMelCNN()}, num_classes=10)
    >>> model.modalities
    ('image', 'audio')
    """

    def __init__(
        self,
        encoders: dict[str, Encoder],
        num_classes: int,
        fusion: Callable[[dict[str, int]], FusionHead] = ConcatFusion,
        feature_clip: FeatureClip | None = None,
        modality_dropout: float = 0.0,
        modality_clips: dict[str, FeatureClip] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(
                where="MultimodalModel.num_classes", found=num_classes, expected="1 or more", fix="count them"
            )
        if not 0 <= modality_dropout < 1:
            raise ConfigError(
                where="MultimodalModel.modality_dropout",
                found=modality_dropout,
                expected="a probability of 0 or more and below 1",
                fix="try 0.3",
            )
        for modality in modality_clips or {}:
            _check_known(modality, encoders, "MultimodalModel.modality_clips")
        self.encoders = nn.ModuleDict(encoders)
        self.modality_clips = nn.ModuleDict(modality_clips or {})
        self.fusion = fusion({m: encoder.embedding_dim for m, encoder in encoders.items()})
        self.feature_clip = feature_clip
        self.head = nn.Linear(self.fusion.output_dim, num_classes)
        self.num_classes = num_classes
        self.modality_dropout = modality_dropout
        self.classes: tuple[str, ...] | None = None
        """Names of the classes in the order of the logits, once a DataModule has told them."""
        self.preprocessing: dict[str, dict[str, Any]] | None = None
        """modality -> settings of the processor it was trained with, where known."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities it reads."""
        return tuple(self.encoders)

    @property
    def requirements(self) -> dict[str, dict[str, object]]:
        """What each modality's processor must be set to: modality -> settings."""
        return {m: dict(encoder.requirements) for m, encoder in self.encoders.items()}  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> ModelOutput:
        """Run the batch's modalities through encoders, fusion, clips and head.

        Raises:
            ConfigError: If the batch lacks a modality the model has an encoder for.
        """
        self._check_inputs(batch["inputs"])
        present = {m: batch["present"][m] for m in self.encoders}
        if self.training and self.modality_dropout and len(present) > 1:
            present = drop_modalities(present, self.modality_dropout)
        features = {m: self._feature(m, batch["inputs"][m], present[m]) for m in self.encoders}
        clipped, shares = self._clip_features(features, present)
        output = self.answer(clipped, present)
        return replace(output, extras={**output.extras, **shares})

    def answer(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> ModelOutput:
        """Everything after the encoders and their clips: fusion, feature clip, head.

        Args:
            features: modality -> "batch dim_m", clipped, zero where absent.
            present: modality -> bool "batch".
        """
        fused = self.fusion(features, present)
        extras: dict[str, Tensor] = {}
        embedding = fused
        if self.feature_clip is not None:
            embedding = self.feature_clip(fused)
            if self.feature_clip.bounds_feature:
                with torch.no_grad():
                    extras["saturated_share"] = self.feature_clip.saturated_share(fused)
        return ModelOutput(self.head(embedding), embedding, features, extras, present=present)

    def answer_from(
        self, features: Mapping[str, Tensor], present: Mapping[str, Tensor], modalities: Sequence[str]
    ) -> Tensor:
        """The logits these modalities alone give: `answer` as if all others were absent.

        What the model remembers, such as batch statistics of the fusion head or a unit's history, is read
        and not moved. No gradient reaches the other modalities' encoders.

        Args:
            features: As `ModelOutput` has them.
            present: modality -> bool "batch".
            modalities: Names of one or more.

        Returns:
            "batch classes". A row that has none of `modalities` is answered from zeros in the place of the
            first of them: it means nothing and must be masked.

        Raises:
            ConfigError: If no modality is named, or one the model has no encoder for.
        """
        _check_named(modalities, self.encoders)
        counted = {m: x if m in modalities else torch.zeros_like(x) for m, x in present.items()}
        nothing = ~torch.stack(list(counted.values())).any(dim=0)
        counted[modalities[0]] = counted[modalities[0]] | nothing
        kept = {m: x if m in modalities else x.detach() for m, x in features.items()}
        memory = {name: buffer.clone() for name, buffer in self.fusion.named_buffers()}
        fused: Tensor = functional_call(self.fusion, memory, (kept, counted))
        if self.feature_clip is not None:
            fused = self.feature_clip(fused, fresh=False)
        logits: Tensor = self.head(fused)
        return logits

    def _feature(self, modality: str, inputs: Inputs, present: Tensor) -> Tensor:
        encoder = self.encoders[modality]
        if all_there(present):
            return encoder(inputs)
        return encoder(blank(inputs, present)).masked_fill(~present[:, None], 0.0)

    def _clip_features(
        self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The features after their clips, and what to log about it."""
        clipped, shares = dict(features), {}
        for modality, clip in self.modality_clips.items():
            x, there = features[modality], present[modality]
            clipped[modality] = clip(x, there)
            if clip.bounds_feature:
                with torch.no_grad():
                    shares[f"saturated_share/{modality}"] = clip.saturated_share(x, there)  # type: ignore[operator]
        return clipped, shares

    def _check_inputs(self, inputs: Mapping[str, Inputs]) -> None:
        for modality in self.encoders:
            if modality not in inputs:
                raise ConfigError(
                    where=f"MultimodalModel, encoder {modality!r}",
                    found=f"a batch with {sorted(inputs)}",
                    expected=f"an input for each of {list(self.encoders)}",
                    fix="add the modality to the DataModule's inputs, or drop its encoder"
                    + nearest(modality, inputs),
                )


def _check_named(modalities: Sequence[str], encoders: Iterable[str]) -> None:
    for modality in modalities:
        _check_known(modality, encoders, "MultimodalModel.answer_from")
    if not modalities:
        raise ConfigError(
            where="MultimodalModel.answer_from",
            found="no modality",
            expected=f"one or more of {list(encoders)}",
            fix="name at least one",
        )


def _check_known(modality: str, encoders: Iterable[str], where: str) -> None:
    if modality not in encoders:
        raise ConfigError(
            where=where,
            found=f"modality {modality!r}",
            expected=f"modalities with an encoder, {list(encoders)}",
            fix="name one of these, or add the encoder" + nearest(modality, encoders),
        )
