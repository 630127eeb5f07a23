"""What processors of texts have in common: cleaning, padding, and a count of the texts they cut."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.data.processor import Processor
from lightning_distill.errors import ConfigError
from lightning_distill.randomness import View

TYPE_SHIFT: Final = np.uint32(24)
"""Where the type of a token stands in 32 bits; no vocabulary comes near 2**24 tokens."""
_IDS: Final = np.uint32(2**24 - 1)


@dataclass(frozen=True)
class Tokens:
    """Tokens of several texts, one text after the other.

    Attributes:
        ids: "tokens": uint16, or uint32 with the type of a token, if it is not 0, in the highest 8 bits.
        length: int64 "texts", tokens of each.
    """

    ids: NDArray[np.unsignedinteger[Any]]
    length: NDArray[np.int64]


@dataclass(frozen=True)
class Padding:
    """What stands where a text of a batch has no token.

    Attributes:
        token: Id of the token.
        type: Its type; None for a tokenizer whose tokens have no types.
        left: Whether it stands before the text.
    """

    token: int
    type: int | None = None
    left: bool = False


class TokenProcessor(Processor):
    """Makes tokens of texts, up to a largest number of tokens a text.

    A text has the same tokens in every epoch, so a data set asks for `tokens` once and keeps them.

    Args:
        max_length: Tokens after which a text is cut.

    Attributes:
        seen: Texts prepared so far, in this process.
        truncated: Texts so far that were cut, in this process.

    Raises:
        ConfigError: If the length is out of range.
    """

    def __init__(self, max_length: int) -> None:
        if max_length < 1:
            raise ConfigError(
                where=f"{type(self).__name__}.max_length",
                found=max_length,
                expected="1 or more",
                fix="try 128",
            )
        self.max_length = max_length
        self.seen, self.truncated = 0, 0

    def prepare(self, raw: str, view: View | None = None) -> Any:
        """Check and clean one text: half of a surrogate pair becomes U+FFFD, blanks alone the empty text."""
        if not isinstance(raw, str):
            raise ValueError(f"{type(raw).__name__}, no text")
        self.seen += 1
        if not raw.isascii():
            raw = raw.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return self._prepare("" if raw.isspace() else raw)

    @abstractmethod
    def _prepare(self, text: str) -> Any:
        """Turn a clean text into what tokens are made of."""

    @property
    @abstractmethod
    def padding(self) -> Padding:
        """How a batch is filled up."""

    @property
    @abstractmethod
    def id_type(self) -> type[np.unsignedinteger[Any]]:
        """Type of `Tokens.ids`: uint16 or uint32."""

    @abstractmethod
    def tokens(self, prepared: Sequence[Any]) -> Tokens:
        """Tokens of prepared texts, at least one text."""

    @final
    def collate(self, prepared: Sequence[Any]) -> dict[str, Tensor]:
        """The padded tokens of prepared texts; see `padded`."""
        return self.padded(self.tokens(prepared))

    def padded(self, tokens: Tokens) -> dict[str, Tensor]:
        """A batch: `input_ids`, `token_type_ids` where tokens have types, and `attention_mask`.

        It is as wide as the longest text. A text without any token gets one padding token to attend to.

        Returns:
            Each int64 "batch tokens".
        """
        padding, length = self.padding, tokens.length[:, None]
        at = np.arange(max(int(length.max()), 1))
        if padding.left:
            at = at[::-1]
        real, ids = at < length, tokens.ids
        types: NDArray[Any] | int = 0
        if padding.type is not None and ids.dtype == np.uint32:
            types, ids = ids >> TYPE_SHIFT, ids & _IDS
        found = {"input_ids": _filled(real, ids, padding.token)}
        if padding.type is not None:
            found["token_type_ids"] = _filled(real, types, padding.type)
        mask = real if length.all() else at < np.maximum(length, 1)
        return found | {"attention_mask": torch.from_numpy(mask.astype(np.int64))}

    def count_cuts(self, cut: int, of: int) -> None:
        """Add to `truncated`, and warn when it is no longer 0.

        Args:
            cut: Texts of a batch that were cut.
            of: Texts of the batch.
        """
        if cut and not self.truncated:
            warnings.warn(
                f"{type(self).__name__}: {cut} of {of} texts of a batch are longer than max_length="
                f"{self.max_length} tokens, their ends are lost. It is said once; `truncated` counts on.",
                stacklevel=3,
            )
        self.truncated += cut


def _filled(real: NDArray[np.bool_], values: NDArray[Any] | int, pad: int) -> Tensor:
    out = np.full(real.shape, pad, np.int64) if pad else np.zeros(real.shape, np.int64)
    if not isinstance(values, int) or values != pad:
        out[real] = values
    return torch.from_numpy(out)
