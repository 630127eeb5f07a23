"""How a raw sample of a student looks, in code that is shown."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final

RAW: Final = {"image": '"photo.png"', "text": '"a text"', "audio": '"sound.wav"'}
"""What stands for a raw sample of a modality in examples."""


def example(modalities: Collection[str]) -> str:
    """A sample as Python writes it.

    Args:
        modalities: Those it has.

    >>> print(example(["image", "text"]))
    {"image": "photo.png", "text": "a text"}
    """
    return "{" + ", ".join(f"{json.dumps(m)}: {RAW.get(m, '...')}" for m in modalities) + "}"
