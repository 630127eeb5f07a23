"""Any timm model as an image encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from lightning_distill.encoders.base import Encoder
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.structures import Feature, Tokens


class TimmImageEncoder(Encoder):
    """A timm backbone without its classifier; the feature is what timm pools.

    Normalises with the mean and deviation the weights were trained with.

    With `tokens` timm's pooling is taken out after the weights are loaded: the tokens are the cells of the
    last map, row by row, or all that a transformer gives: class and register tokens first, then the patches.
    What timm has between the map and the pooled feature, such as a last normalisation, is kept.

    Args:
        model_name: A timm model such as `resnet18`, or `hf-hub:owner/name`.
        pretrained: Load weights: from `weights` where given, else from timm's hub.
        weights: Local folder written by timm's `save_for_hf` (`config.json` beside `model.safetensors`).
        channels: Of the image.
        tokens: Return `Tokens`, of the width of the pooled feature.

    Raises:
        ConfigError: If the model is unknown, the weights cannot be found, or it cannot give tokens.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model_name: str = "resnet18",
        pretrained: bool = False,
        weights: Path | None = None,
        channels: int = 3,
        tokens: bool = False,
    ) -> None:
        backbone = _loaded(model_name, pretrained, weights, channels)
        # With a head before its classifier (MobileNetV3, VGG, ...) a model pools to more than `num_features`.
        super().__init__(getattr(backbone, "head_hidden_size", backbone.num_features), tokens)
        self.backbone = backbone
        self.channels = channels
        self._channels_first = tokens and _unpool(backbone, self.embedding_dim, channels, model_name)
        mean, std = backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"]
        self.register_buffer("mean", self._per_channel(mean, channels), persistent=False)
        self.register_buffer("std", self._per_channel(std, channels), persistent=False)

    @staticmethod
    def _per_channel(values: tuple[float, ...], channels: int) -> Tensor:
        kept = values if len(values) == channels else (sum(values) / len(values),) * channels
        return torch.tensor(kept).view(1, channels, 1, 1)

    @property
    def requirements(self) -> Mapping[str, object]:
        """Channels of the image, and its size where the model takes no other."""
        side = _fixed_side(self.backbone)
        return {"channels": self.channels} if side is None else {"channels": self.channels, "size": side}

    def forward(self, inputs: Tensor) -> Feature:
        """Encode uint8 (or float 0..255) images "batch channels height width"."""
        x: Tensor = self.backbone((inputs.to(self.mean.dtype) / 255.0 - self.mean) / self.std)
        if not self.tokens:
            return x
        values = x.flatten(2).transpose(1, 2) if self._channels_first else x.flatten(1, -2)
        return Tokens(values, values.new_ones(values.shape[:2], dtype=torch.bool))

    def portable_init_args(self, folder: Path) -> dict[str, Any]:
        """Keep timm's own config.json, which also holds mean and deviation."""
        import timm

        timm.models.save_for_hf(self.backbone, str(folder), safe_serialization=True)
        (folder / "model.safetensors").unlink()
        return {"model_name": f"local-dir:{folder}", "pretrained": False, "weights": None}


def _loaded(model_name: str, pretrained: bool, weights: Path | None, channels: int) -> Any:
    """The backbone, still with its pooling but without a classifier."""
    import timm
    from safetensors import SafetensorError

    kind, _, named = model_name.partition(":")
    folder = Path(named) if weights is None and kind == "local-dir" and pretrained else weights
    files = ("config.json", "model.safetensors")  # timm itself would also take a pickle
    missing = [] if folder is None else [name for name in files if not Path(folder, name).is_file()]
    if missing:
        raise ConfigError(
            where="TimmImageEncoder.weights",
            found=f"no {' and no '.join(missing)} in {folder}",
            expected="a folder with config.json and model.safetensors",
            fix="write it with timm.models.save_for_hf(model, folder, safe_serialization=True)",
        )
    source = model_name if weights is None else f"local-dir:{weights}"
    if weights is None and ":" not in model_name and not timm.is_model(model_name):
        raise ConfigError(
            where="TimmImageEncoder.model_name",
            found=f"{model_name!r}{nearest(model_name, timm.list_models())}",
            expected="a model that timm knows",
            fix="list them with timm.list_models()",
        )
    try:
        return timm.create_model(
            source, pretrained=pretrained or weights is not None, num_classes=0, in_chans=channels
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            where="TimmImageEncoder",
            found=f"weights of {model_name!r} cannot be loaded ({type(error).__name__}: {error})",
            expected="a network to reach the hub, or weights on disk",
            fix="point `weights` to a local folder, or set `pretrained: false`",
        ) from error


def _fixed_side(backbone: Any) -> int | None:
    """The side of the only square image the backbone takes; None where it takes others."""
    embed, config = getattr(backbone, "patch_embed", None), backbone.pretrained_cfg
    if embed is not None and hasattr(embed, "strict_img_size"):
        height, width = embed.img_size if embed.strict_img_size else (0, 1)
    else:
        height, width = config["input_size"][1:] if config.get("fixed_input_size") else (0, 1)
    return int(height) if height == width else None


def _unpool(backbone: Any, width: int, channels: int, name: str) -> bool:
    """Take the pooling out; whether the tokens of what is left have their channels in dimension 1."""
    try:
        backbone.reset_classifier(0, "")
        shape = _shape_given(backbone, channels)
    # Families of timm refuse each in its own way: an assertion, a missing argument, shapes that do not fit.
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        why = f"timm cannot take its pooling out ({type(error).__name__}: {error})"
        raise _no_tokens(name, why) from error
    if len(shape) not in (3, 4) or (shape[1] == width) == (shape[-1] == width):
        raise _no_tokens(name, f"without pooling it makes {shape or 'no tensor'} of two images")
    first = shape[1] == width
    if math.prod(shape) == 2 * width:
        raise _no_tokens(name, f"it makes a single token of an image, {shape}")
    return first


def _shape_given(backbone: Any, channels: int) -> tuple[int, ...]:
    """Shape of what it makes of two images of its own size, found without computing anything."""
    given = (*backbone.named_parameters(), *backbone.named_buffers())
    empty = {name: torch.empty_like(x, device="meta") for name, x in given}
    side = backbone.pretrained_cfg["input_size"][1:]
    with torch.no_grad():
        found = functional_call(backbone, empty, (torch.empty(2, channels, *side, device="meta"),))
    return tuple(found.shape) if isinstance(found, Tensor) else ()


def _no_tokens(name: str, why: str) -> ConfigError:
    return ConfigError(
        where="TimmImageEncoder.tokens",
        found=f"{name!r}: {why}",
        expected="a model that gives a map of cells, or a sequence",
        fix="choose another, such as resnet18 or vit_small_patch16_224, or leave `tokens` out",
    )
