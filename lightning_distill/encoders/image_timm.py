"""Any timm model as an image encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_distill.encoders.base import Encoder
from lightning_distill.errors import ConfigError, nearest


class TimmImageEncoder(Encoder):
    """A timm backbone without its classifier; the feature is what timm pools.

    Normalises with the mean and deviation the weights were trained with.

    Args:
        model_name: A timm model such as `resnet18`, or `hf-hub:owner/name`.
        pretrained: Load weights: from `weights` where given, else from timm's hub.
        weights: Local folder written by timm's `save_for_hf` (`config.json` beside `model.safetensors`).
        channels: Of the image.

    Raises:
        ConfigError: If the model is unknown, or the weights cannot be found.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model_name: str = "resnet18",
        pretrained: bool = False,
        weights: Path | None = None,
        channels: int = 3,
    ) -> None:
        import timm
        from safetensors import SafetensorError

        files = ("config.json", "model.safetensors")
        missing = [] if weights is None else [name for name in files if not Path(weights, name).is_file()]
        if missing:
            raise ConfigError(
                where="TimmImageEncoder.weights",
                found=f"no {' and no '.join(missing)} in {weights}",
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
            backbone = timm.create_model(
                source, pretrained=pretrained or weights is not None, num_classes=0, in_chans=channels
            )
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ConfigError(
                where="TimmImageEncoder",
                found=f"weights of {model_name!r} cannot be loaded ({type(error).__name__}: {error})",
                expected="a network to reach the hub, or weights on disk",
                fix="point `weights` to a local folder, or set `pretrained: false`",
            ) from error
        # With a head before its classifier (MobileNetV3, VGG, ...) a model pools to more than `num_features`.
        super().__init__(getattr(backbone, "head_hidden_size", backbone.num_features))
        self.backbone = backbone
        self.channels = channels
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

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode uint8 (or float 0..255) images "batch channels height width"."""
        x = (inputs.to(self.mean.dtype) / 255.0 - self.mean) / self.std
        return self.backbone(x)

    def portable_init_args(self, folder: Path) -> dict[str, Any]:
        """Keep timm's own config.json, which also holds mean and deviation."""
        import timm

        timm.models.save_for_hf(self.backbone, str(folder), safe_serialization=True)
        (folder / "model.safetensors").unlink()
        return {"model_name": f"local-dir:{folder}", "pretrained": False, "weights": None}


def _fixed_side(backbone: Any) -> int | None:
    """The side of the only square image the backbone takes; None where it takes others."""
    embed, config = getattr(backbone, "patch_embed", None), backbone.pretrained_cfg
    if embed is not None and hasattr(embed, "strict_img_size"):
        height, width = embed.img_size if embed.strict_img_size else (0, 1)
    else:
        height, width = config["input_size"][1:] if config.get("fixed_input_size") else (0, 1)
    return int(height) if height == width else None
