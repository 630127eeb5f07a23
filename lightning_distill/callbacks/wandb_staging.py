"""What W&B sets aside for an artifact lies in the run's folder, not in the user's home."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_NAME: Final = "WANDB_DATA_DIR"


@contextmanager
def staged_in(run: Any) -> Iterator[None]:
    """Within it, what is logged is set aside in the folder of the session, unless the user says where.

    An offline run keeps it until it is uploaded.

    Args:
        run: W&B's.
    """
    if os.environ.get(_NAME) or not isinstance(getattr(run, "dir", None), str):
        yield
        return
    os.environ[_NAME] = str(Path(run.dir).parent)
    try:
        yield
    finally:
        del os.environ[_NAME]
