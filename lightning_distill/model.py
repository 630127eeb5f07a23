"""The model both teacher and student are: encoders, their clips, fusion, feature clip, task head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_distill import model_checks
from lightning_distill.absence import all_there, anything_there, blank, drop_modalities, zeroed
from lightning_distill.encoders import Encoder
from lightning_distill.feature_clipping import FeatureClip
from lightning_distill.fusion import ConcatFusion, FusionHead
from lightning_distill.heads import LinearHead, TaskHead
from lightning_distill.structures import Batch, Feature, Inputs, ModelOutput, Tokens


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
            encoder, before fusion; modalities without one stay free. Tokens are clipped one by one.
        head: Makes the task head g from the width of the fused feature and the number of logits.
        unimodal_heads: Give each modality a task head of its own beside the fusion. `DistillationModule`
            trains them by the term "unimodal".

    Raises:
        ConfigError: If there is no encoder, no output, a probability outside [0, 1), a clip for a modality
            without encoder, an encoder that does not give what the fusion head reads, or a task head that
            undoes late fusion.

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
        head: Callable[[int, int], TaskHead] = LinearHead,
        unimodal_heads: bool = False,
    ) -> None:
        super().__init__()
        model_checks.numbers_fit(num_classes, modality_dropout)
        model_checks.known(modality_clips or {}, encoders, "MultimodalModel.modality_clips")
        self.encoders = nn.ModuleDict(encoders)
        self.modality_clips = nn.ModuleDict(modality_clips or {})
        self.fusion = fusion({m: encoder.embedding_dim for m, encoder in encoders.items()})
        model_checks.tokens_fit(encoders, self.fusion)
        self.feature_clip = feature_clip
        self.head = head(self.fusion.output_dim, num_classes)
        model_checks.head_fits(self.fusion, self.head)
        own = encoders if unimodal_heads else {}
        self.unimodal_heads = nn.ModuleDict({m: head(e.embedding_dim, num_classes) for m, e in own.items()})
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
        model_checks.inputs_fit(batch["inputs"], self.encoders)
        present = {m: batch["present"][m] for m in self.encoders}
        if self.training and self.modality_dropout and len(present) > 1:
            present = drop_modalities(present, self.modality_dropout)
        features = {m: self._feature(m, batch["inputs"][m], present[m]) for m in self.encoders}
        clipped, shares = self._clip_features(features, present)
        output = self.answer(clipped, present)
        return replace(output, extras={**output.extras, **shares})

    def answer(self, features: Mapping[str, Feature], present: Mapping[str, Tensor]) -> ModelOutput:
        """Everything after the encoders and their clips: fusion, feature clip, heads.

        Args:
            features: modality -> "batch dim_m" or `Tokens`, clipped, zero where absent.
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
        vectors = {m: x.mean() if isinstance(x, Tokens) else x for m, x in features.items()}
        return ModelOutput(
            self.head(embedding),
            embedding,
            vectors,
            extras,
            present=present,
            tokens={m: x for m, x in features.items() if isinstance(x, Tokens)},
            unimodal={m: head(vectors[m]) for m, head in self.unimodal_heads.items()},
        )

    def answer_from(self, output: ModelOutput, modalities: Sequence[str]) -> Tensor:
        """The logits these modalities alone give: `answer` as if all others were absent.

        What the model remembers, such as batch statistics of the fusion head or a unit's history, is read
        and not moved. No gradient reaches the other modalities' encoders.

        Args:
            output: Of this model.
            modalities: Names of one or more.

        Returns:
            "batch classes". A row that has none of `modalities` is answered from zeros in the place of the
            first of them: it means nothing and must be masked.

        Raises:
            ConfigError: If no modality is named, or one the model has no encoder for.
        """
        model_checks.some_known(modalities, self.encoders, "MultimodalModel.answer_from")
        counted = {m: x if m in modalities else torch.zeros_like(x) for m, x in output.present.items()}
        kept = {m: x if m in modalities else _detached(x) for m, x in output.fused.items()}
        nothing = ~torch.stack([anything_there(kept[m], there) for m, there in counted.items()]).any(dim=0)
        first = modalities[0]
        counted[first] = counted[first] | nothing
        kept[first] = _with_a_token(kept[first], nothing)
        memory = {name: buffer.clone() for name, buffer in self.fusion.named_buffers()}
        fused: Tensor = functional_call(self.fusion, memory, (kept, counted))
        if self.feature_clip is not None:
            fused = self.feature_clip(fused, fresh=False)
        logits: Tensor = self.head(fused)
        return logits

    def _feature(self, modality: str, inputs: Inputs, present: Tensor) -> Feature:
        encoder = self.encoders[modality]
        x: Feature = encoder(inputs if all_there(present) else blank(inputs, present))
        return zeroed(x, present)

    def _clip_features(
        self, features: Mapping[str, Feature], present: Mapping[str, Tensor]
    ) -> tuple[dict[str, Feature], dict[str, Tensor]]:
        """The features after their clips, and what to log about it."""
        clipped, shares = dict(features), {}
        for modality, clip in self.modality_clips.items():
            x, there = features[modality], present[modality]
            rows, there = x if isinstance(x, Tokens) else (x, there)
            found = clip(rows, there)
            clipped[modality] = Tokens(found, x.mask) if isinstance(x, Tokens) else found
            if clip.bounds_feature:
                with torch.no_grad():
                    shares[f"saturated_share/{modality}"] = clip.saturated_share(rows, there)  # type: ignore[operator]
        return clipped, shares


def _detached(x: Feature) -> Feature:
    return Tokens(x.values.detach(), x.mask) if isinstance(x, Tokens) else x.detach()


def _with_a_token(x: Feature, rows: Tensor) -> Feature:
    """Some rows with their first token there, which is zero; a vector is as it is."""
    if not isinstance(x, Tokens):
        return x
    return Tokens(x.values, x.mask | (rows[:, None] & x.first()))
