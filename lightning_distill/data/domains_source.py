"""Several sources as one, each a domain."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.domain_targets import joined_targets
from lightning_distill.data.source import DataSource, SampleTable


class DomainsSource(DataSource):
    """The samples of several sources, one source after the other, each of its own domain.

    Domains that a part has told apart itself are one domain here. Classes are those of the first part; labels
    of the others are told by name. A modality that is not read of a part counts as absent in its samples. A
    sample is known by its content: if two domains hold the same one, both rows have the same id, and a
    teacher whose answers are stored gives both the same answer.

    Args:
        parts: Domain -> source, those to learn from first.
        targets: Names of the domains to adapt to.
        modalities: Domain -> modalities that are read of it.

    Raises:
        ConfigError: If the parts have targets of several kinds, or labels that the first part does not know.
    """

    def __init__(
        self,
        parts: Mapping[str, DataSource],
        targets: Collection[str],
        modalities: Mapping[str, Collection[str]],
    ) -> None:
        self.parts, self.domains = tuple(parts.values()), tuple(parts)
        self.classes = self.parts[0].classes
        self.in_target = np.array([name in targets for name in parts])
        """bool "domains"."""
        self.starts = np.cumsum([0, *(len(source.samples) for source in self.parts)])
        """Where each part's rows start, and where the last ends."""
        self._read = [frozenset(modalities[name]) for name in parts]
        self._samples = self._joined(joined_targets(parts))

    def _joined(self, target: NDArray[Any]) -> SampleTable:
        tables = [source.samples for source in self.parts]
        together = list(zip(tables, self._read, strict=True))
        names = dict.fromkeys(m for table, read in together for m in table.present if m in read)
        present = {
            m: np.concatenate(
                [
                    t.present[m] if m in read & t.present.keys() else np.zeros(len(t), bool)
                    for t, read in together
                ]
            )
            for m in names
        }
        weights = [t.weight if len(t.weight) else np.ones(len(t), np.float32) for t in tables]
        return SampleTable(
            sample_id=np.concatenate([table.sample_id for table in tables]),
            target=target,
            split=np.concatenate([table.split for table in tables]),
            domain=np.repeat(np.arange(len(tables)), [len(table) for table in tables]),
            present=present,
            weight=np.concatenate(weights if any(len(t.weight) for t in tables) else [tables[0].weight]),
        )

    @property
    def samples(self) -> SampleTable:
        """The rows of the first domain, then those of the next."""
        return self._samples

    @property
    def fingerprint(self) -> str:
        """Changes when a part, its name or its role changes."""
        digest = hashlib.blake2b(digest_size=16)
        for name, source, adapted in zip(self.domains, self.parts, self.in_target.tolist(), strict=True):
            digest.update(repr((name, adapted, source.fingerprint)).encode())
        return digest.hexdigest()

    def contents(self, rows: NDArray[np.int64], modalities: Sequence[str]) -> NDArray[np.uint64]:
        """Hashes as the parts make them, of the modalities that are read of each."""
        found, domain = np.empty(len(rows), np.uint64), self._samples.domain[rows]
        for at, source in enumerate(self.parts):
            own = domain == at
            there = [m for m in modalities if m in self._read[at]]
            found[own] = source.contents(rows[own] - self.starts[at], there)
        return found

    def load(self, modality: str, row: int) -> Any:
        """As the part does."""
        at = int(self._samples.domain[row])
        return self.parts[at].load(modality, row - int(self.starts[at]))

    def describe(self, row: int) -> str:
        """Domain, and where the part says the sample comes from."""
        at = int(self._samples.domain[row])
        return f"domain {self.domains[at]!r}, {self.parts[at].describe(row - int(self.starts[at]))}"
