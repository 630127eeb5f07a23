"""The model both teacher and student are: encoders, fusion, feature clip, task head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_distill.encoders import Encoder
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.feature_clipping import FeatureClip
from lightning_distill.fusion import ConcatFusion, FusionHead
from lightning_distill.structures import Batch, Inputs, ModelOutput


class MultimodalModel(nn.Module):
    """y = g(clip(fuse(f1(image), f2(text), f3(audio)))), for any set of modalities.

    It reads from a batch only the modalities it has an encoder for, so a student with fewer modalities
    than its teacher reads the same batch.

    Args:
        encoders: modality -> encoder f_m.
        num_classes: Logits to return: a class each, or a number each.
        fusion: Makes the fusion head from {modality: width}.
        feature_clip: Bound on the fused feature; None leaves it free.
        modality_dropout: Probability with which each modality of each training sample is treated as absent;
            at least one that is there stays. It makes every encoder learn on its own.

    Raises:
        ConfigError: If there is no encoder, no output, or a probability outside [0, 1).

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
        self.encoders = nn.ModuleDict(encoders)
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
        """Run the batch's modalities through encoders, fusion, clip and head.

        Raises:
            ConfigError: If the batch lacks a modality the model has an encoder for.
        """
        self._check_inputs(batch["inputs"])
        present = {m: batch["present"][m] for m in self.encoders}
        if self.training and self.modality_dropout and len(present) > 1:
            present = drop_modalities(present, self.modality_dropout)
        features = {m: self._feature(m, batch["inputs"][m], present[m]) for m in self.encoders}
        fused = self.fusion(features, present)
        extras: dict[str, Tensor] = {}
        embedding = fused
        if self.feature_clip is not None:
            embedding = self.feature_clip(fused)
            with torch.no_grad():
                extras["saturated_share"] = self.feature_clip.saturated_share(fused)
        return ModelOutput(self.head(embedding), embedding, features, extras)

    def _feature(self, modality: str, inputs: Inputs, present: Tensor) -> Tensor:
        encoder = self.encoders[modality]
        if _all_there(present):
            return encoder(inputs)
        return encoder(_blank(inputs, present)).masked_fill(~present[:, None], 0.0)

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


def drop_modalities(present: Mapping[str, Tensor], probability: float) -> dict[str, Tensor]:
    """Mark each modality of each sample absent with a probability, keeping one of those that were there.

    Args:
        present: modality -> bool "batch".
        probability: In [0, 1).

    Returns:
        modality -> bool "batch".
    """
    there = torch.stack(list(present.values()), dim=1)
    # The present modality with the largest draw always stays, so that no sample is left with none.
    draws = torch.rand(there.shape, device=there.device).masked_fill(~there, -1.0)
    kept = there & ((draws >= probability) | (draws == draws.amax(dim=1, keepdim=True)))
    return dict(zip(present, kept.unbind(dim=1), strict=True))


def _all_there(present: Tensor) -> bool:
    """Whether no sample lacks the modality; asked on the CPU only, elsewhere one would wait for it."""
    return present.device.type == "cpu" and not torch.compiler.is_compiling() and bool(present.all())


def _blank(inputs: Inputs, present: Tensor) -> Inputs:
    """Blank what absent samples hold, so that neither NaN nor batch statistics can come from it."""
    if isinstance(inputs, dict):
        # Mask 1, not 0: attention over an empty sequence is not defined.
        return {k: _fill(v, present, int(k == "attention_mask")) for k, v in inputs.items()}
    return _fill(inputs, present, 0)


def _fill(x: Tensor, present: Tensor, value: int) -> Tensor:
    return x.masked_fill(~present.view(-1, *[1] * (x.ndim - 1)), value)
