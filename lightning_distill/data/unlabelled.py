"""A table that holds no labels."""

from __future__ import annotations

import numpy as np

from lightning_distill.data.tables import TextTable
from lightning_distill.data.targets import Labels, Target
from lightning_distill.structures import UNLABELLED


class Unlabelled(Target):
    """No label in any row, and no column for one: the table of a domain to adapt to.

    In a `CrossDomainDataModule` the classes are those of the source. Where the source's targets are numbers
    or several classes a row, use its kind of target, on columns with empty cells.
    """

    columns = ()

    def read(self, table: TextTable) -> Labels:
        """No names, and int64 `UNLABELLED` for every row."""
        return Labels((), np.full(len(table), UNLABELLED, np.int64))
