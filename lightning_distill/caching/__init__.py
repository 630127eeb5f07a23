"""What a teacher has said, kept on disk and found again by what was asked."""

from lightning_distill.caching.answers import AnswerFormat
from lightning_distill.caching.cache import AnswerCache
from lightning_distill.caching.lookup import Lookup, lookups

__all__ = ["AnswerCache", "AnswerFormat", "Lookup", "lookups"]
