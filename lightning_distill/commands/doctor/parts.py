"""The parts of a config, each made on its own, so that one that cannot be made hides no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonargparse
from lightning.pytorch import LightningDataModule, Trainer

from lightning_distill.commands.doctor.findings import Findings
from lightning_distill.commands.making import make, own_mistake
from lightning_distill.data import MultimodalDataModule, Processor
from lightning_distill.module import DistillationModule
from lightning_distill.security.allowed import restrict_imports
from lightning_distill.teachers import Teacher

Config = Mapping[str, Any]


@dataclass
class Parts:
    """What could be made.

    Attributes:
        config: All keys of `fit`, with full class paths.
        data: The DataModule.
        module: What trains; without its teacher if that could not be made.
        trainer: Without loggers and callbacks.
        processors: Where they stand in the config -> preprocessing, also where `data` could not be made.
    """

    config: Config
    data: MultimodalDataModule | None = None
    module: DistillationModule | None = None
    trainer: Trainer | None = None
    processors: dict[str, Processor] = field(default_factory=dict)


def make_parts(config: Config, findings: Findings) -> Parts:
    """Make what a config describes.

    Args:
        config: All keys of `fit`, with full class paths.
        findings: Where errors go.
    """
    parts = Parts(config)
    with findings.step("trainer"):
        parts.trainer = _trainer(config["trainer"])
    _make_module(parts, findings)
    with findings.step("data"):
        made = make(LightningDataModule, "data", config["data"])
        if isinstance(made, MultimodalDataModule):
            parts.data = made
        else:
            findings.note("data", f"a {type(made).__name__}, which does not tell what its samples are")
    _make_processors(parts, findings)
    return parts


def _trainer(config: Config) -> Trainer:
    """Without what writes files."""
    silent = {"logger": False, "callbacks": None, "enable_checkpointing": False, "enable_progress_bar": False}
    restrict_imports()
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False)
    try:
        spec = {**config, **silent, "enable_model_summary": False}
        trainer: Trainer = parser.instantiate(parser.parse_object({"trainer": spec})).trainer
    except Exception as error:  # Lightning raises many kinds for a device that is not there
        raise own_mistake(error, "trainer") from error
    return trainer


def _make_module(parts: Parts, findings: Findings) -> None:
    spec = parts.config["model"]
    before = len(findings.all)
    with findings.step("model"):
        parts.module = make(DistillationModule, "model", spec)
    init_args = spec.get("init_args") or {}
    if len(findings.all) == before or not init_args.get("teacher"):
        return
    with findings.step("model.teacher"):
        make(Teacher, "teacher", init_args["teacher"])
    alone = {key: init_args[key] for key in init_args if key not in ("teacher", "losses", "weights")}
    with findings.step("model"):
        parts.module = make(DistillationModule, "model", {**spec, "init_args": alone})


def _make_processors(parts: Parts, findings: Findings) -> None:
    """Those of the DataModule, or each alone where it could not be made; loads tokenizers and decoders."""
    for key in ("processors", "teacher_processors"):
        specs = (parts.config["data"].get("init_args") or {}).get(key)
        for modality, spec in specs.items() if isinstance(specs, Mapping) else ():
            name = f"data.{key}.{modality}"
            with findings.step(name):
                if parts.data is None:
                    made = make(Processor, "processor", spec)
                else:
                    made = getattr(parts.data, key)[modality]
                made.check()
                parts.processors[name] = made
