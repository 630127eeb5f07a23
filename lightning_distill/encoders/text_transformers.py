"""Any transformers text model as an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_distill.encoders.base import Encoder
from lightning_distill.errors import ConfigError
from lightning_distill.security.model_config import check_config
from lightning_distill.structures import Feature, Tokens


class TransformersTextEncoder(Encoder):
    """A transformers encoder; the feature is the mean of the last hidden states over real tokens.

    With `tokens` it is those states themselves, so that the mean of its tokens is the feature without them.

    Weights are always safetensors, and code from a hub is never run.

    Args:
        model: Hub name such as `bert-base-uncased`, or a local folder.
        pretrained: Load the weights; False reads only the configuration and starts from random ones.
        tokens: Return the last hidden states as `Tokens`.

    Raises:
        ConfigError: If the model cannot be found or loaded, or its config.json asks for code from elsewhere.

    Source of the pooling: Reimers and Gurevych, Sentence-BERT (1908.10084), section 3.
    """

    def __init__(
        self, model: str = "bert-base-uncased", pretrained: bool = True, tokens: bool = False
    ) -> None:
        import torch
        import transformers
        from safetensors import SafetensorError

        options: dict[str, Any] = {"trust_remote_code": False, "dtype": torch.float32}
        local = Path(model).is_dir()
        try:
            check_config(model, "TransformersTextEncoder.model")
            if pretrained:
                backbone = transformers.AutoModel.from_pretrained(
                    model, use_safetensors=True, local_files_only=local, **options
                )
            else:
                config = transformers.AutoConfig.from_pretrained(
                    model, trust_remote_code=False, local_files_only=local
                )
                backbone = transformers.AutoModel.from_config(config, **options)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            kind = "folder" if local else "name"
            raise ConfigError(
                where="TransformersTextEncoder.model",
                found=f"{kind} {model!r}: {str(error).splitlines()[0]}",
                expected="a folder with config.json and model.safetensors, or a hub name and a network",
                fix="save one with model.save_pretrained(folder) and give that folder",
            ) from error
        super().__init__(backbone.config.hidden_size, tokens)
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # not used: its weights would get no gradient, which DDP refuses
        backbone.train()  # from_pretrained leaves eval mode behind, which would switch dropout off
        self.backbone = backbone

    @property
    def requirements(self) -> Mapping[str, object]:
        """Tokens it knows."""
        size = getattr(self.backbone.config, "vocab_size", None)
        return {} if size is None else {"vocabulary_size": size}

    def forward(self, inputs: dict[str, Tensor]) -> Feature:
        """Encode `input_ids` and `attention_mask` (and `token_type_ids`), int64 "batch tokens"."""
        hidden: Tensor = self.backbone(**inputs).last_hidden_state
        if self.tokens:
            return Tokens(hidden, inputs["attention_mask"].bool())
        mask = inputs["attention_mask"][:, :, None].to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)

    def portable_init_args(self, folder: Path) -> dict[str, Any]:
        """Keep the model's config.json."""
        self.backbone.config.save_pretrained(folder)
        return {"model": str(folder), "pretrained": False}
