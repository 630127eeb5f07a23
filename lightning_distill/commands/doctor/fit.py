"""Whether student, teacher, task and data go together, and whether what is monitored exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchmetrics import MetricCollection

from lightning_distill import checks
from lightning_distill.clipper import refuse_to_be_ignored
from lightning_distill.commands.doctor.domain_monitor import (
    POOLED,
    names_of_domains,
    names_of_validators,
    without_labels,
)
from lightning_distill.commands.doctor.findings import Findings
from lightning_distill.commands.doctor.parts import Parts
from lightning_distill.commands.doctor.samples import SplitCount
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.module import DistillationModule


def check_fit(parts: Parts, findings: Findings) -> None:
    """Classes in one order, targets of the task's kind, preprocessing as the models need it."""
    module, data = parts.module, parts.data
    if parts.trainer is not None and module is not None and module.clip_rule is not None:
        with findings.step("model.clip_rule"):
            refuse_to_be_ignored(parts.trainer)
    if module is None or data is None:
        return
    student, classes = module.student, getattr(data, "classes", None)
    for teacher in dict.fromkeys([None, module.teacher]):
        if teacher is not None:
            with findings.step("teacher"):
                teacher.begin(student)
        with findings.step("data and models, classes"):
            module.teacher = checks.classes_fit(student, teacher, classes) or module.teacher
        with findings.step("data and models, preprocessing"):
            checks.preprocessing_fits(student, teacher, data)
    with findings.step("data and task"):
        checks.target_fits(module.task, data, student.num_classes)
    if module.teacher is not None:
        with findings.step("teacher and student"):
            checks.nothing_shared(module, module.teacher)
    for modality in student.modalities:
        if modality not in data.processors:
            findings.error(
                ConfigError(
                    where=f"model.student.encoders.{modality}",
                    found=f"an encoder, and processors for {', '.join(data.processors)} alone",
                    expected="a processor for each encoder of the student",
                    fix=f"add data.processors.{modality}, or drop the encoder",
                )
            )


def check_monitor(parts: Parts, counts: Sequence[SplitCount], findings: Findings) -> None:
    """What early stopping and the best checkpoint go by must be logged, and in the right direction."""
    module = parts.module
    if module is None:
        return
    losses = (parts.config["model"].get("init_args") or {}).get("losses") or {}
    together, of_labels = _logged(module, losses), _of_labels(module)
    agreement = [f"val/{module.task.agreement_name}"] if losses else []
    by_domain = names_of_domains(parts.data, [*of_labels, *agreement])
    known = [*together, *by_domain, *names_of_validators(parts.config)]
    unlabelled = any(count.split == "val" and count.samples and not count.labelled for count in counts)
    for key in ("early_stopping", "checkpoint"):
        settings = parts.config.get(key) or {}
        monitor = settings.get("monitor")
        if monitor is None:
            continue
        if monitor not in known:
            findings.error(
                ConfigError(
                    where=f"{key}.monitor",
                    found=f"{monitor!r}, which is not logged{nearest(monitor, known)}",
                    expected=f"one of {', '.join(name for name in known if name.startswith('val/'))}",
                    fix=f"set {key}: {{monitor: val/loss, mode: min}}",
                )
            )
        elif (unlabelled and monitor in (POOLED, *of_labels)) or without_labels(parts.data, monitor):
            findings.warn(
                f"{key}.monitor",
                f"{monitor!r}, and no validation sample with a label",
                "a metric that does not need labels",
                f"set {key}: {{monitor: val/loss, mode: min}}, or label some validation rows",
            )
        _check_mode(key, monitor, settings, module, findings)


def _check_mode(
    key: str, monitor: str, settings: dict[str, Any], module: DistillationModule, findings: Findings
) -> None:
    last = monitor.rpartition("/")[2]
    metric = dict(_metrics(module).items()).get(f"val/{last}")
    better = getattr(metric, "higher_is_better", None)
    if monitor == POOLED:
        better = module.task.monitor[1] == "max"
    elif monitor.startswith("val/validator/"):
        better = True
    elif metric is None and last in ("loss", "task", *module.terms.losses):
        better = False
    wanted = None if better is None else "max" if better else "min"
    if wanted is not None and settings.get("mode") not in (None, wanted):
        findings.warn(
            f"{key}.mode",
            f"{settings['mode']}, for {monitor}",
            wanted,
            f"set {key}.mode to {wanted}, else the worst epoch is kept",
        )


def _logged(module: DistillationModule, losses: Mapping[str, object]) -> list[str]:
    """By a module with these losses; it may lack them, and its teacher, where they could not be made."""
    terms = ["loss", "task", *losses]
    agreement = [f"val/{module.task.agreement_name}"] if losses else []
    named = [f"{stage}/{name}" for stage in ("val", "train") for name in terms]
    return list(dict.fromkeys([*_of_labels(module), *agreement, *named]))


def _of_labels(module: DistillationModule) -> list[str]:
    return [str(name) for name in _metrics(module).keys()]  # noqa: SIM118 - only so with their prefix


def _metrics(module: DistillationModule) -> MetricCollection:
    found = module.metrics["val"]
    assert isinstance(found, MetricCollection)
    return found
