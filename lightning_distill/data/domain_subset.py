"""The rows of some domains of a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.source import DataSource, SampleTable
from lightning_distill.errors import ConfigError, nearest


class DomainSubset(DataSource):
    """The rows of some domains of a source that tells domains apart, such as a table with a domain column.

    Classes, splits and sample ids stay as they are, so that two subsets of one source go together in a
    `CrossDomainDataModule`.

    Args:
        source: All rows.
        domains: Names of the domains to keep.

    Raises:
        ConfigError: If the source has no such domain, or none is named.
    """

    def __init__(self, source: DataSource, domains: list[str]) -> None:
        unknown = [name for name in domains if name not in source.domains]
        if unknown or not domains or len(set(domains)) < len(domains):
            hint = nearest(unknown[0], source.domains) if unknown else ""
            raise ConfigError(
                where="DomainSubset.domains",
                found=f"{domains}{hint}",
                expected=f"some of {', '.join(source.domains)}, each once",
                fix="correct the names, or tell the source which column holds the domain",
            )
        self.source, self.domains, self.classes = source, tuple(domains), source.classes
        table = source.samples
        place = np.full(len(source.domains), -1, np.int64)
        place[[source.domains.index(name) for name in domains]] = np.arange(len(domains))
        self.rows = rows = np.flatnonzero(place[table.domain] >= 0)
        """Where the rows stand in the source."""
        self._samples = SampleTable(
            table.sample_id[rows],
            table.target[rows],
            table.split[rows],
            place[table.domain[rows]],
            {m: there[rows] for m, there in table.present.items()},
            table.weight[rows] if len(table.weight) else table.weight,
        )

    @property
    def samples(self) -> SampleTable:
        """The rows, in the order of the source."""
        return self._samples

    def contents(self, rows: NDArray[np.int64], modalities: Sequence[str]) -> NDArray[np.uint64]:
        """As the source makes them."""
        return self.source.contents(self.rows[rows], modalities)

    def load(self, modality: str, row: int) -> Any:
        """As the source does."""
        return self.source.load(modality, int(self.rows[row]))

    def describe(self, row: int) -> str:
        """As the source does."""
        return self.source.describe(int(self.rows[row]))
