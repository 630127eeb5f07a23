"""What processors of texts have in common: cleaning, and a count of the texts they cut."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

from lightning_distill.data.processor import Processor
from lightning_distill.errors import ConfigError
from lightning_distill.randomness import View


class TokenProcessor(Processor):
    """Makes tokens of texts, up to a largest number of tokens a text.

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
        """Turn a clean text into what is collated."""

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
