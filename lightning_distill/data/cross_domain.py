"""Batches of several domains: those to learn from, and those to adapt to."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.base import MultimodalDataModule
from lightning_distill.data.base_checks import check_enough, empty_split
from lightning_distill.data.cross_domain_checks import check_domains
from lightning_distill.data.dataset import MultimodalDataset
from lightning_distill.data.domain_dataset import DomainDataset
from lightning_distill.data.domain_sampling import DomainSampler
from lightning_distill.data.domains import Domains
from lightning_distill.data.domains_source import DomainsSource
from lightning_distill.data.pairing import Independent, Pairing
from lightning_distill.data.processor import Processor
from lightning_distill.data.reading import Reading
from lightning_distill.data.sampling import BatchSampler, Plan
from lightning_distill.randomness import derive


class CrossDomainDataModule(MultimodalDataModule):
    """Any DataModules as source and target domains; every batch holds rows of all of them.

    A training epoch is one pass over the domain with the most batches; the others are drawn again meanwhile,
    in a new order each pass. In evaluation each sample comes once. Each domain keeps its own `batch_size` and
    `sampling`: a batch has as many rows as those of all domains together. Batches tell by `domain` and
    `in_target_domain` whose rows are whose; metrics are logged for each domain too, as
    `<stage>/<domain>/<metric>`, and as `<stage>/score` their mean over the domains that have labels.

    Target labels are used like any others where there are some. Few or none: see `PartlyLabelled`. A
    modality that a domain's DataModule has no processor for counts as absent there.

    Args:
        source: What to learn from: one DataModule, which is called "source", or `Domains`.
        target: What to adapt to: one, which is called "target", or `Domains`.
        pairing: Which target row goes with which source row in training; None is `Independent()`.

    Attributes:
        domains: Names, sources first, in the order of `Batch.domain`.
        targets: Names of the domains to adapt to.
        parts: Domain -> its DataModule.

    Raises:
        ConfigError: If names, classes, processors or settings of the domains do not go together, or one is a
            stream.
        ManifestError: At setup, if a domain has nothing to train on.
    """

    def __init__(
        self,
        source: MultimodalDataModule | Domains,
        target: MultimodalDataModule | Domains,
        pairing: Pairing | None = None,
    ) -> None:
        sources = source.modules if isinstance(source, Domains) else {"source": source}
        targets = target.modules if isinstance(target, Domains) else {"target": target}
        self.pairing = pairing or Independent()
        check_domains(sources, targets, self.pairing)
        self.parts = {**sources, **targets}
        self.domains, self.targets = tuple(self.parts), tuple(targets)
        first, modules = next(iter(self.parts.values())), self.parts.values()
        super().__init__(
            DomainsSource(
                {name: module.indexed for name, module in self.parts.items()},
                self.targets,
                {name: module.read_modalities for name, module in self.parts.items()},
            ),
            _all([module.processors for module in modules]),
            batch_size=sum(module.batch_size for module in modules),
            num_workers=max(module.num_workers for module in modules),
            in_memory=first.in_memory,
            on_bad_sample=first.on_bad_sample,
            teacher_processors=_all([module.teacher_processors for module in modules]),
            views=first.views,
        )

    @property
    def joined(self) -> DomainsSource:
        """The source."""
        return cast(DomainsSource, self.source)

    def prepare_data(self) -> None:
        """As each domain does."""
        for module in self.parts.values():
            module.prepare_data()

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of the joined source that a split uses: what each domain uses, one after the other."""
        starts = self.joined.starts[:-1]
        own = [m.rows(split) for m in self.parts.values()]
        return np.concatenate([start + rows for start, rows in zip(starts, own, strict=True)])

    def dataset(self, split: str) -> MultimodalDataset:
        """The split's data set, built when first asked for."""
        if split == "train" and split not in self._datasets:
            for name, module in self.parts.items():
                if not len(module.rows(split)):
                    found = f"0 usable rows of {len(module.indexed.samples)} in the domain {name!r}"
                    raise empty_split(type(self).__name__, split, found)
        return super().dataset(split)

    def make_dataset(self, rows: NDArray[np.int64], reading: Reading) -> MultimodalDataset:
        """Batches that tell which rows are of a target domain."""
        return DomainDataset(self.joined, rows, reading)

    def report(self) -> list[str]:
        """One line a domain and split."""
        return [f"{name}, {line}" for name, module in self.parts.items() for line in module.report()]

    def make_sampler(
        self,
        split: str,
        data: MultimodalDataset,
        place: tuple[int, int] = (0, 1),
        first: tuple[int, int] = (0, 0),
    ) -> DomainSampler:
        """Batches of all domains.

        Raises:
            ManifestError: If a domain has fewer training samples than there are processes.
            ConfigError: If rows cannot be paired.
        """
        assert isinstance(data, DomainDataset)
        train, samplers = split == "train", []
        for at, (name, module) in enumerate(self.parts.items()):
            size = int(data.sizes[at])
            if train:
                check_enough(f"{type(self).__name__}, split {split!r}, domain {name!r}", size, place[1])
            # A seed of its own: two domains of one size would else be drawn in the same order, and rows that
            # stand in the same place, perhaps of the same class, would always meet.
            seed = derive(self.seed, "domain", name)
            plan = self._plan(at, module, data) if train else Plan()
            samplers.append(BatchSampler(size, module.batch_size, seed, train, *place, plan=plan))
        if not train:
            return DomainSampler(samplers, first)
        count = len(self.parts) - len(self.targets)
        rows, own = data.rows.astype(np.int64, copy=False), int(data.sizes[:count].sum())
        draw = self.pairing.draw(data.source.samples, rows[:own], rows[own:])
        return DomainSampler(samplers if draw is None else samplers[:count], first, draw)

    def _plan(self, at: int, module: MultimodalDataModule, data: DomainDataset) -> Plan:
        """How a domain is drawn, by its own sampling; positions count from its first sample."""
        own = slice(int(data.sizes[:at].sum()), int(data.sizes[: at + 1].sum()))
        rows = data.rows[own].astype(np.int64, copy=False)
        return module.sampling.plan(data.source.samples, rows, lambda modality: data.lengths(modality)[own])


def _all(several: list[dict[str, Processor]]) -> dict[str, Processor]:
    """The first processor of each modality; those of one modality are known to be alike."""
    found: dict[str, Processor] = {}
    for processors in several:
        found |= {modality: p for modality, p in processors.items() if modality not in found}
    return found
