"""What is logged because there are several domains, or because a callback chooses without target labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from lightning_distill.commands.doctor.parts import Config
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.cross_domain import CrossDomainDataModule
from lightning_distill.domain_metrics import SCORE
from lightning_distill.terms import TASK
from lightning_distill.validators import TargetValidator

POOLED = f"val/{SCORE}"


def names_of_domains(data: MultimodalDataModule | None, metrics: Sequence[str]) -> list[str]:
    """What validation logs of each domain, and the score; nothing where there is one domain.

    Args:
        data: What is trained on.
        metrics: Those of all domains together, with the agreement, as `val/<metric>`.
    """
    if not isinstance(data, CrossDomainDataModule):
        return []
    own = [*(name.removeprefix("val/") for name in metrics), TASK]
    return [POOLED, *(f"val/{domain}/{name}" for domain in data.domains for name in own)]


def names_of_validators(config: Config) -> list[str]:
    """What the validators among the callbacks of the Trainer log."""
    specs = (config.get("trainer") or {}).get("callbacks") or ()
    classes = [_class(spec) for spec in specs if isinstance(spec, Mapping)]
    return [
        f"val/validator/{c.name}" for c in classes if isinstance(c, type) and issubclass(c, TargetValidator)
    ]


def _class(spec: Mapping[str, Any]) -> object:
    module, _, name = str(spec.get("class_path")).rpartition(".")
    return getattr(import_module(module), name, None) if module else None


def without_labels(data: MultimodalDataModule | None, monitor: str) -> bool:
    """Whether that is measured in a domain of whose validation samples none has a label."""
    domain = monitor.removeprefix("val/").partition("/")[0]
    if not isinstance(data, CrossDomainDataModule) or domain not in data.domains:
        return False
    table, rows = data.indexed.samples, data.rows("val")
    own = rows[table.domain[rows] == data.domains.index(domain)]
    return not table.labelled(own).any()
