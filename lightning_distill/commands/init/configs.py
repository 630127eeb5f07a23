"""A plan as the text of one config, or of two."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from lightning_distill.commands.init.parts import Spec
from lightning_distill.commands.init.plan import Plan
from lightning_distill.errors import printable
from lightning_distill.structures import Outputs
from lightning_distill.tasks import Classification

_IN_MEMORY: Final = 10**9
"""Bytes of prepared samples up to which all are kept."""
_WIDTH: Final = 108
_TERMS: Final[dict[Outputs, Spec]] = {
    Outputs.CLASSES: {"class_path": "LogitKD", "init_args": {"temperature": 2.0}},
    Outputs.LABELS: {"class_path": "MultilabelKD"},
    Outputs.NUMBERS: {"class_path": "RegressionKD"},
}


@dataclass(frozen=True)
class Config:
    """One config.

    Attributes:
        path: Where it belongs.
        run: Folder of the run it makes.
        text: Its content.
    """

    path: Path
    run: Path
    text: str


def single(plan: Plan, path: Path) -> Config:
    """Training on labels alone.

    Args:
        plan: What was found.
        path: Of the file.
    """
    run = Path("runs", path.stem)
    model = _module(plan, _student(plan, list(plan.parts)))
    return Config(
        path, run, _text(plan, path, run, "A model trained on the labels alone.", model, _data(plan))
    )


def pair(plan: Plan, path: Path, student: Sequence[str]) -> tuple[Config, Config]:
    """A teacher that reads everything, and a student distilled from it.

    Args:
        plan: What was found.
        path: Of the file that gives both their names.
        student: Modalities of the student.
    """
    of_teacher, of_student = (
        path.with_name(f"{path.stem}_{who}{path.suffix}") for who in ("teacher", "student")
    )
    runs = [Path("runs", config.stem) for config in (of_teacher, of_student)]
    model = _module(plan, _student(plan, list(plan.parts), modality_dropout=0.3))
    about = (
        f"A teacher that reads {', '.join(plan.parts)}; a modality at a time is hidden from it in training."
    )
    teacher = Config(of_teacher, runs[0], _text(plan, of_teacher, runs[0], about, model, _data(plan)))
    model = _module(plan, _student(plan, student), _distillation(plan, runs[0] / "student"))
    about = (
        f"A student that reads {', '.join(student)}, distilled from the teacher {of_teacher.name} trains "
        f"into {runs[0].as_posix()}."
    )
    text = _text(plan, of_student, runs[1], about, model, _data(plan, student))
    return teacher, Config(of_student, runs[1], text)


def _student(plan: Plan, modalities: Iterable[str], **more: Any) -> Spec:
    encoders = {m: plan.parts[m].encoder for m in modalities}
    clip = {"class_path": "HardClip", "init_args": {"epsilon": 3.0}}
    init_args = {"num_classes": len(plan.names), "encoders": encoders, "feature_clip": clip, **more}
    return {"class_path": "MultimodalModel", "init_args": init_args}


def _distillation(plan: Plan, folder: Path) -> dict[str, Any]:
    of_labels = plan.task.outputs is Outputs.LABELS
    loader = {
        "class_path": "lightning_distill.export.load_student",
        "init_args": {"folder": folder.as_posix()},
    }
    return {
        "teacher": {"class_path": "FrozenTeacher", "init_args": {"model": loader}},
        "losses": {"kd": _TERMS[plan.task.outputs]},
        # `MultilabelKD` is a sum over the classes, the task's loss their mean.
        "weights": {"task": 0.5, "kd": 0.5 / len(plan.names) if of_labels else 0.5},
    }


def _module(plan: Plan, student: Spec, distillation: dict[str, Any] | None = None) -> Spec:
    encoders = student["init_args"]["encoders"]
    pretrained = any(part.pretrained for m, part in plan.parts.items() if m in encoders)
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-4 if pretrained else 2e-3}}
    init_args = {
        "student": student,
        **(distillation or {}),
        **({} if plan.task is Classification else {"task": {"class_path": plan.task.__name__}}),
        "clip_rule": {"class_path": "ValueClip", "init_args": {"epsilon": 0.01}},
        "optimizer": optimizer,
    }
    return {"class_path": "DistillationModule", "init_args": init_args}


def _data(plan: Plan, student: Sequence[str] | None = None) -> Spec:
    """Processors for the teacher alone where only it reads: rows the student cannot read are left out."""
    processors = {m: part.processor for m, part in plan.parts.items()}
    init_args: dict[str, Any] = {"source": plan.source}
    if student is None:
        init_args["processors"] = processors
    else:
        init_args["processors"] = {m: processors[m] for m in student}
        init_args["teacher_processors"] = {m: p for m, p in processors.items() if m not in student}
    kept = plan.bytes <= _IN_MEMORY
    heavy = any(part.pretrained for part in plan.parts.values())
    init_args |= {"batch_size": 32 if heavy else 64, "in_memory": kept, "num_workers": 0 if kept else 2}
    return {"class_path": plan.datamodule, "init_args": init_args}


def _text(plan: Plan, path: Path, run: Path, about: str, model: Spec, data: Spec) -> str:
    name = path.as_posix()
    head = [
        about,
        f"Made by lightning-distill init from {plan.data} ({plan.rows:,} samples). {plan.told}",
        f"Check:   lightning-distill doctor --config {name}",
        f"Train:   lightning-distill fit --config {name} --run {run.as_posix()}",
        f"Test:    lightning-distill test --run {run.as_posix()}",
        f"Predict: lightning-distill predict --run {run.as_posix()}",
    ]
    batches = max(1, plan.rows // data["init_args"]["batch_size"] // 2)
    monitor = plan.monitor
    kept = (
        f"Prepared, the samples take about {plan.bytes / 1e6:,.0f} MB, so all are kept in memory."
        if data["init_args"]["in_memory"]
        else f"Prepared, the samples take about {plan.bytes / 1e9:,.1f} GB, so they are read in every epoch."
    )
    names = ", ".join(plan.names[:12]) + (", ..." if len(plan.names) > 12 else "")
    sections: list[tuple[list[str], dict[str, Any]]] = [
        (head, {}),
        (
            ["Training ends when the monitored metric has not improved for 5 epochs."],
            {
                "trainer": {"max_epochs": 20, "accelerator": "auto", "log_every_n_steps": min(20, batches)},
                "early_stopping": {**monitor, "patience": 5},
                "checkpoint": monitor,
            },
        ),
        (
            [*(part.why for part in plan.parts.values()), f"{len(plan.names)} outputs: {names}"],
            {"model": model},
        ),
        ([plan.split, kept], {"data": data}),
    ]
    return "\n".join(_section(comments, content) for comments, content in sections)


def _section(comments: Iterable[str], content: dict[str, Any]) -> str:
    lines = [
        line
        for comment in comments
        for line in textwrap.wrap(
            printable(comment, 4000),
            _WIDTH,
            initial_indent="# ",
            subsequent_indent="#   ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]
    dumped = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1000
    )
    return "\n".join(lines) + "\n" + (dumped if content else "")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes out what is there twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
