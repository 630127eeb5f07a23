"""From a sample, and the view of it, to the key of the teacher's answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.caching.cache import AnswerCache
from lightning_distill.errors import ConfigError
from lightning_distill.identity import identity_of
from lightning_distill.randomness import mixed
from lightning_distill.storage import MISSING

if TYPE_CHECKING:
    from lightning_distill.data import MultimodalDataModule

EVALUATION: Final = -1
"""Number of the view that is not augmented."""
PENDING: Final = -2
"""Place of an answer that was added and is not committed yet."""


class Lookup:
    """Some samples in one view.

    Args:
        sample_id: int64 "samples".
        keys: Of the answers.

    Attributes:
        sample_id: Each once, ascending.
        keys: In the same order.
        places: Where the answers lie; negative where there is none.
    """

    def __init__(self, sample_id: NDArray[np.int64], keys: NDArray[np.uint64]) -> None:
        self.sample_id, first = np.unique(sample_id, return_index=True)
        self.keys = keys[first]
        self.places = np.full(len(self.keys), MISSING, np.int64)

    def search(self, cache: AnswerCache) -> None:
        """Look for the answers that are not found yet."""
        missing = np.flatnonzero(self.places < 0)
        if len(missing):
            self.places[missing] = cache.locate(self.keys[missing])

    @property
    def missing(self) -> int:
        """Number of samples without an answer."""
        return int((self.places < 0).sum())

    def rows(self, sample_id: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Where these samples stand here; None if one is not among them."""
        at = np.searchsorted(self.sample_id, sample_id)
        if len(at) and at.max() == len(self.sample_id):
            return None
        return at if (self.sample_id[at] == sample_id).all() else None


def lookups(
    data: MultimodalDataModule, splits: Sequence[str], modalities: Sequence[str]
) -> dict[int, Lookup]:
    """View -> the samples that are shown in it.

    Args:
        data: The samples.
        splits: Those that are used.
        modalities: Those the teacher reads.

    Raises:
        ConfigError: If every epoch shows the teacher new views.
    """
    augmented = data.augments(modalities)
    if augmented and "train" in splits and not data.views:
        theirs = {**data.processors, **data.teacher_processors}
        names = [f"{m} {dict(theirs[m].view_settings)}" for m in modalities if theirs[m].augments]
        raise ConfigError(
            where=f"{type(data).__name__}, with a CachedTeacher",
            found=f"training that shows a new view of each sample every epoch: {'; '.join(names)}",
            expected="views that come again, since what a teacher said of one is no answer to another",
            fix="set data.views to a number such as 4, whose answers are kept (with several domains, the "
            "views of each); or do not augment what the teacher reads; or train without the cache",
        )
    source = data.indexed
    of_split = {split: data.rows(split) for split in splits}
    contents = {split: source.contents(rows, modalities) for split, rows in of_split.items()}
    plain = [split for split in splits if split != "train" or not augmented]
    found = {}
    if plain:
        rows = np.concatenate([of_split[split] for split in plain])
        keys = np.concatenate([contents[split] for split in plain])
        found[EVALUATION] = Lookup(source.samples.sample_id[rows], mixed(keys))
    if "train" not in plain and "train" in splits:
        ids = source.samples.sample_id[of_split["train"]]
        for view in range(data.views or 0):
            token = np.uint64(int(_view_identity(data, modalities, view)[:16], 16))
            found[view] = Lookup(ids, mixed(contents["train"] ^ token))
    return found


def _view_identity(data: MultimodalDataModule, modalities: Sequence[str], view: int) -> str:
    theirs = {**data.processors, **data.teacher_processors}
    return identity_of(
        data.seed, view, {m: (type(theirs[m]), dict(theirs[m].view_settings)) for m in modalities}
    )
