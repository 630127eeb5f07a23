"""What the card of a shipped student is made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_distill.data import CrossDomainDataModule, MultimodalDataModule
from lightning_distill.data.source import SPLITS, DataSource
from lightning_distill.evaluation import SubsetResult
from lightning_distill.model import MultimodalModel
from lightning_distill.shipping.lineage import hub_names, lineage, shown
from lightning_distill.shipping.verification import Verification
from lightning_distill.structures import Outputs


@dataclass(frozen=True)
class Ancestry:
    """Where a student comes from.

    Attributes:
        teachers: Steps away, and what there is, the nearest first; empty without a teacher.
        hub: Models of the hub that weights come from.
        peers: Names of the students it has learned with, each a teacher of the others.
    """

    teachers: tuple[tuple[int, str], ...]
    hub: tuple[str, ...]
    peers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Facts about a student.

    Attributes:
        name: Of the run.
        description: Of its inputs and outputs, see `description`.
        outputs: What its logits stand for.
        model: The student.
        ancestry: Where it comes from.
        data: Name -> what is known of the data.
        split: What `results` and `verifications` were measured on.
        results: Metrics for each subset of its modalities, all of them first.
        verifications: One a format.
        licence: Metadata of the card that are the author's to say, from the card of before.
    """

    name: str
    description: Mapping[str, Any]
    outputs: Outputs
    model: MultimodalModel
    ancestry: Ancestry
    data: Mapping[str, str]
    split: str
    results: Sequence[SubsetResult]
    verifications: Sequence[Verification]
    licence: Mapping[str, Any] = field(default_factory=dict)


def teacher_facts(config: Mapping[str, Any]) -> Ancestry:
    """What a run's config tells of teachers and of pretrained weights.

    Args:
        config: Without secrets.
    """
    given = config["model"].get("init_args") or {}
    peers: Mapping[str, Any] = given.get("students") or {}
    first, *others = peers or [""]  # the first peer is the one that is exported
    parts = [given.get("student"), peers.get(first), given.get("teacher")]
    hub = dict.fromkeys(name for part in parts for name in hub_names(part))
    return Ancestry(tuple(lineage(given.get("teacher"))), tuple(hub), tuple(others))


def data_facts(config: Mapping[str, Any], data: MultimodalDataModule) -> dict[str, str]:
    """What it was trained on.

    Args:
        config: Of the run, without secrets.
        data: Of the run.
    """
    source = data.source
    found = {"source": "; ".join(_sources(config["data"], data)) or type(source).__name__}
    if isinstance(source, DataSource):
        table = source.samples
        for split in SPLITS:
            rows = data.rows(split)
            found |= {f"samples, {split}": table.told(rows, data.read_modalities)} if len(rows) else {}
    found |= {"fingerprint": source.fingerprint} if source.fingerprint else {}
    if len(source.domains) > 1:
        found["domains"] = ", ".join(source.domains)
    return found


def _sources(config: Mapping[str, Any], data: MultimodalDataModule) -> Iterator[str]:
    """What the data are read from; of several domains, that of each, in their order."""
    given = config.get("init_args") or {}
    sides = [side for side in (given.get("source"), given.get("target")) if isinstance(side, dict)]
    if not isinstance(data, CrossDomainDataModule) or len(sides) < 2:
        parts = [part for name, part in given.items() if name not in ("processors", "teacher_processors")]
        yield from _settings(parts)
        return
    several = [(side.get("init_args") or {}).get("modules") or {"": side} for side in sides]
    specs = [spec for modules in several for spec in modules.values()]
    for spec, module in zip(specs, data.parts.values(), strict=False):
        yield from _sources(spec, module)


def _settings(value: Any) -> Iterator[str]:
    """Class and plain settings of each source that a part of a config names."""
    if isinstance(value, list):
        for item in value:
            yield from _settings(item)
    if not isinstance(value, dict):
        return
    given = value.get("init_args") or {}
    if isinstance(value.get("class_path"), str) and isinstance(given, dict):
        told = [
            f"{k} {shown(v) if isinstance(v, str) else v}"
            for k, v in given.items()
            if isinstance(v, str | int) and v is not False
        ]
        name = value["class_path"].rpartition(".")[2]
        yield f"{name} ({', '.join(told)})" if told else name
    for item in value.values():
        yield from _settings(item)
