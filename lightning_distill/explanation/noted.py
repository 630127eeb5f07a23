"""What could not be made, as a sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lightning_distill.errors import DistillError


@contextlib.contextmanager
def noted(left_out: list[str], what: str, kind: type[Exception] = DistillError) -> Iterator[None]:
    """Turn what goes wrong in the block into a sentence.

    Args:
        left_out: Where the sentence goes.
        what: Is missing then.
        kind: Of errors; `Exception` for foreign parts, such as a teacher.
    """
    try:
        yield
    except kind as error:
        own = isinstance(error, DistillError)
        told = str(error) if own else f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        left_out.append(f"No {what}: {told}")
