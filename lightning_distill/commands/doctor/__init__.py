"""What `lightning-distill doctor` checks, once the config is parsed (`lightning_distill.cli.doctor`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from lightning_distill.commands.doctor.batch import try_batches
from lightning_distill.commands.doctor.domain_distances import measure_domains
from lightning_distill.commands.doctor.domains import count_domains
from lightning_distill.commands.doctor.files import read_samples
from lightning_distill.commands.doctor.findings import Findings
from lightning_distill.commands.doctor.fit import check_fit, check_monitor
from lightning_distill.commands.doctor.groups import check_groups
from lightning_distill.commands.doctor.parts import make_parts
from lightning_distill.commands.doctor.report import (
    print_counts,
    print_distances,
    print_domains,
    print_estimate,
    print_findings,
    print_measures,
)
from lightning_distill.commands.doctor.samples import count_samples

__all__ = ["Options", "examine", "hushed"]


@dataclass(frozen=True)
class Options:
    """How thoroughly to look.

    Attributes:
        samples: Samples to decode; None decodes all.
        workers: Processes that decode.
    """

    samples: int | None = 200
    workers: int = 2


@contextmanager
def hushed() -> Iterator[None]:
    """Lightning does not tell of seeds and devices."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def examine(config: Mapping[str, Any], options: Options, console: Console) -> int:
    """Check everything that can be checked before the first step, and print it.

    Nothing is changed but the index of the data, which is kept for training.

    Args:
        config: All keys of `fit`, with full class paths.
        options: How thoroughly to look.
        console: Where to print.

    Returns:
        Exit code: 0 without errors, else that of the errors.
    """
    findings = Findings()
    with console.status("making data and models"):
        parts = make_parts(config, findings)
        made = findings.count("error")
        counts = count_samples(parts, findings)
        domains = count_domains(parts, findings)
        if parts.data is not None:
            check_groups(parts.data.source, findings)
        check_fit(parts, findings)
        sound = findings.count("error") == made
        check_monitor(parts, counts, findings)
    measures = read_samples(parts, findings, console, options.samples, options.workers)
    estimate = distances = None
    if sound and (measures is None or measures.survived):
        with console.status("comparing domains"):
            distances = measure_domains(parts, domains, findings)
        with console.status("training on a few batches"):
            estimate = try_batches(parts, findings)
    else:
        findings.note("one training batch", "not tried, since it would fail", "correct the errors first")
    print_counts(console, counts, () if parts.data is None else parts.data.classes)
    print_domains(console, domains)
    print_measures(console, measures)
    print_distances(console, distances)
    print_estimate(console, estimate, (config.get("trainer") or {}).get("max_epochs"))
    print_findings(console, findings)
    return findings.exit_code
