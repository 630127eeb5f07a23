"""`lightning-distill assess`: will the teacher of a config help its student?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lightning_distill.commands.opening import (
    batches,
    data_and_task,
    distillation_config,
    mistake,
    packages,
    run_config,
    teacher_of,
)
from lightning_distill.errors import ConfigError, DistillError
from lightning_distill.security.allowed import restrict_imports

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_distill.assessment import Verdict
    from lightning_distill.model import MultimodalModel
    from lightning_distill.structures import Batch, Inputs, ModelOutput
    from lightning_distill.teachers import Teacher

_GRID: Final = 8
_WIDTH: Final = 256
"""Most features the reader gets; more are projected at random."""


@dataclass
class Gathered:
    """Labelled samples, read by both sides.

    Attributes:
        features: Of the student's modalities.
        teacher: Its answers.
        target: Labels.
        student: Logits of a trained student, where there is one.
    """

    features: Tensor
    teacher: ModelOutput
    target: Tensor
    student: Tensor | None


def main(argv: Sequence[str]) -> int:
    """Print a verdict with its evidence and write it as JSON.

    Args:
        argv: Words after `assess`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    if options.samples < 20:
        raise ConfigError(
            where="assess --samples", found=options.samples, expected="20 or more", fix="leave it out"
        )
    config = distillation_config(options.config)

    import torch
    from rich.console import Console

    import lightning_distill.encoders  # noqa: F401 - so that a config may name classes without the path
    from lightning_distill.assessment import assess
    from lightning_distill.reporting.atomic import write_json
    from lightning_distill.tasks import Classification

    data, task = data_and_task(config, options.config)
    if not isinstance(task, Classification):
        raise ConfigError(
            where=f"{options.config}, model.task",
            found=type(task).__name__,
            expected="Classification, one class a sample",
            fix="for other tasks, call lightning_distill.assessment.general_share on the teacher's outputs",
        )
    teacher = teacher_of(config, None, options.config)
    student = _student(config, options.run, options.config)
    found = _gather(
        batches(data, ("val", "train"), torch.device("cpu")), teacher, student, options.samples, options.run
    )
    rows = data.rows("train")
    share = float(data.indexed.samples.labelled(rows).mean()) if len(rows) else 0.0
    verdict = assess(found.features, found.teacher, found.target, share, found.student)
    told = {"samples": len(found.target), "student_run": str(options.run) if options.run else None}
    write_json(options.out, {**asdict(verdict), **told})
    _show(verdict, len(found.target), Console(), options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill assess",
        description="Before training: will this teacher help this student? A verdict and its evidence.",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", type=Path, required=True, help="config of a distillation")
    parser.add_argument("--run", type=Path, help="run of the student on labels only; reads its features")
    parser.add_argument(
        "--samples", type=int, default=2000, metavar="N", help="labelled samples to ask about; default: 2000"
    )
    parser.add_argument("--out", type=Path, default=Path("assessment.json"), help="JSON file to write")
    return parser


def _student(config: dict[str, Any], run: Path | None, path: Path) -> MultimodalModel:
    """The trained one of a run, or a fresh one."""
    import jsonargparse
    import torch

    from lightning_distill.export import load_student
    from lightning_distill.model import MultimodalModel

    restrict_imports()
    if run is not None:
        own = run_config(run)
        return load_student(run / "student", packages=sorted(packages(own["model"])))
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MultimodalModel, "student")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            spec = {"student": config["model"]["init_args"].get("student")}
            student: MultimodalModel = parser.instantiate(parser.parse_object(spec)).student
    except DistillError:
        raise
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise mistake(error, path) from error
    return student.eval()


def _gather(
    batches: Iterable[Batch], teacher: Teacher, student: MultimodalModel, samples: int, run: Path | None
) -> Gathered:
    """Ask both about labelled samples, validation first, until there are enough."""
    import torch

    from lightning_distill.structures import ModelOutput, labelled_rows

    parts: dict[str, list[Tensor]] = {}
    count = 0
    for batch in batches:
        kept = labelled_rows(batch["target"])
        inputs = {**batch["inputs"], **batch.get("teacher_inputs", {})}
        answer = teacher({**batch, "inputs": inputs})  # type: ignore[typeddict-item]
        with torch.no_grad():
            own = student(batch)
        read = [own.embedding] if run else [own.embedding, *_raw(batch, student.modalities)]
        values = {"target": batch["target"], "logits": answer.logits, "student": own.logits}
        values["features"] = torch.cat([x.flatten(1) for x in read if x is not None], dim=1)
        if answer.embedding is not None:
            values["embedding"] = answer.embedding
        for name, value in values.items():
            parts.setdefault(name, []).append(value[kept].detach().cpu())
        count += int(kept.sum())
        if count >= samples:
            break
    whole = {name: torch.cat(values)[:samples] for name, values in parts.items()}
    if count < 20:
        raise ConfigError(
            where="assess, data",
            found=f"{count} labelled samples",
            expected="20 or more in the splits val and train",
            fix="label some more samples",
        )
    output = ModelOutput(whole["logits"], whole.get("embedding"))
    return Gathered(_narrow(whole["features"]), output, whole["target"], whole["student"] if run else None)


def _raw(batch: Batch, modalities: Sequence[str]) -> list[Tensor]:
    """A cheap fixed reading of each modality, 0 where absent."""
    return [_pooled(batch["inputs"][m]).masked_fill(~batch["present"][m][:, None], 0.0) for m in modalities]


def _pooled(inputs: Inputs) -> Tensor:
    """Means over a coarse grid of maps, counts of tokens by their id modulo 256, vectors as they are."""
    import torch
    from torch.nn import functional as F

    if isinstance(inputs, dict):
        ids = inputs["input_ids"] % _WIDTH
        seen = inputs.get("attention_mask", torch.ones_like(ids)).float()
        return seen.new_zeros(len(ids), _WIDTH).scatter_add_(1, ids, seen)
    x = inputs.float()
    if x.ndim < 3:
        return x.reshape(len(x), -1)
    x = x.reshape(len(x), -1, *x.shape[-2:])
    height, width = x.shape[-2:]
    return F.adaptive_avg_pool2d(x, (min(_GRID, height), min(_GRID, width))).flatten(1)


def _narrow(features: Tensor) -> Tensor:
    """Columns of one spread, at most `_WIDTH` of them."""
    import torch

    x = features.double()
    x = x[:, x.std(dim=0) > 0]
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    if x.shape[1] <= _WIDTH:
        return x
    draw = torch.randn(x.shape[1], _WIDTH, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return x @ draw / x.shape[1] ** 0.5


def _show(verdict: Verdict, samples: int, console: Any, out: Path) -> None:
    from rich.table import Table

    table = Table(
        "measure", "value", title=f"Will this teacher help? {samples:,} samples", title_justify="left"
    )
    table.columns[1].justify = "right"
    for name, value in verdict.measures.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}")
    console.print(table)
    for line in verdict.evidence:
        console.print(f"- {line}", highlight=False, markup=False)
    console.print(f"Verdict: {verdict.word} (expected help {verdict.expected_help:+.2f})", highlight=False)
    console.print(f"Wrote {out}", highlight=False, markup=False, soft_wrap=True)
