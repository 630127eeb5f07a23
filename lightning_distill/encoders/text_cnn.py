"""A small convolutional text encoder over bytes, trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lightning_distill.encoders.base import Encoder
from lightning_distill.sizes import check_sizes
from lightning_distill.structures import Feature, Tokens


class ByteTextCNN(Encoder):
    """Byte embedding, two convolutions over the sequence, maximum over time, then a linear layer.

    With `tokens` there is no maximum: the linear layer makes a token of each byte.

    Args:
        vocabulary_size: Of the tokenizer; 259 fits `ByteTextInput` (256 bytes and three special tokens).
        width: Of the byte embedding and the convolutions.
        kernel_size: Bytes a convolution sees.
        embedding_dim: Width of the feature.
        tokens: Return `Tokens`, one a byte.

    Source: Kim, Convolutional Neural Networks for Sentence Classification (1408.5882), section 2, on bytes
    instead of words and with a second convolution.
    """

    def __init__(
        self,
        vocabulary_size: int = 259,
        width: int = 64,
        kernel_size: int = 3,
        embedding_dim: int = 64,
        tokens: bool = False,
    ) -> None:
        check_sizes(
            type(self).__name__,
            {
                "vocabulary_size": vocabulary_size,
                "width": width,
                "kernel_size": kernel_size,
                "embedding_dim": embedding_dim,
            },
        )
        super().__init__(embedding_dim, tokens)
        self.embed = nn.Embedding(vocabulary_size, width)
        self.first = nn.Conv1d(width, width, kernel_size, padding="same")
        self.second = nn.Conv1d(width, width, kernel_size, padding="same")
        self.project = nn.Linear(width, embedding_dim)

    @property
    def requirements(self) -> Mapping[str, object]:
        """Tokens it knows."""
        return {"vocabulary_size": self.embed.num_embeddings}

    def forward(self, inputs: dict[str, Tensor]) -> Feature:
        """Encode `input_ids` and `attention_mask`, both int64 "batch tokens"."""
        mask = inputs["attention_mask"][:, None, :].to(self.project.weight.dtype)
        x = self.embed(inputs["input_ids"]).transpose(1, 2) * mask
        x = self.first(x).relu() * mask
        if self.tokens:
            return Tokens(
                self.project(self.second(x).relu().transpose(1, 2)), inputs["attention_mask"].bool()
            )
        x = self.second(x).relu() * mask  # zero is the least value left, so padding never wins the maximum
        features: Tensor = self.project(x.amax(dim=2))
        return features
