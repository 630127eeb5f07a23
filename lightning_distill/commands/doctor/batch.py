"""A few real training steps on a copy that is thrown away: are they finite, and what do they cost?"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from lightning_distill import checks
from lightning_distill.commands.doctor.findings import Findings
from lightning_distill.commands.doctor.parts import Parts
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.bad_samples import Substituted
from lightning_distill.data.reading import Reading
from lightning_distill.data.source import DataSource
from lightning_distill.errors import ManifestError, NonFiniteError
from lightning_distill.gradient_step import view_of
from lightning_distill.module import DistillationModule
from lightning_distill.optimization import make_optimizer
from lightning_distill.structures import Batch, Inputs, ModelOutput

_BATCHES: Final = 5
_PATIENCE: Final = 20.0
"""Seconds after which no further batch is tried."""


@dataclass(frozen=True)
class Estimate:
    """What training will cost, from a few steps.

    Attributes:
        read: Seconds to read a batch in one process.
        step: Seconds of a training step.
        batches: Of an epoch; None for a stream.
        epoch: Seconds of an epoch's training, by the settings for workers and memory; None for a stream.
        parameters: Bytes of the parameters that are trained, and likewise of gradients.
        state: Bytes of the optimizer's state.
        teacher: Bytes of the teacher.
        kept: Bytes of all prepared samples; 0 where they are not kept.
        once: Seconds to read these before the first epoch.
        peak: Largest memory of this process so far, bytes.
        device: Where the steps were made.
    """

    read: float
    step: float
    batches: int | None
    epoch: float | None
    parameters: int
    state: int
    teacher: int
    kept: int
    once: float
    peak: int
    device: str


def try_batches(parts: Parts, findings: Findings) -> Estimate | None:
    """Read some batches and train on them."""
    module, data = parts.module, parts.data
    if module is None or data is None:
        return None
    with findings.step("one training batch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it could warn of was found before
        device = torch.device("cpu") if parts.trainer is None else parts.trainer.strategy.root_device
        trial = _Trial(module, device)
        count, batches = _batches(data)
        reads, steps, batch = [], [], None
        begin = time.perf_counter()
        for batch, seconds in batches:
            reads.append(seconds)
            steps.append(trial.step(batch))
            if time.perf_counter() - begin > _PATIENCE or not trial.finite(findings):
                break
        if batch is None:
            raise ManifestError(
                where="one training batch",
                found="none: a stream leaves its last, incomplete batch out",
                expected=f"{data.batch_size} samples or more, as batch_size says",
                fix="lower data.batch_size",
            )
        return _estimate(trial, data, (reads, steps), count, batch)
    return None


def _batches(data: MultimodalDataModule) -> tuple[int | None, Iterator[tuple[Batch, float]]]:
    """How many an epoch has, and the first of them with the seconds it took to read each."""
    if not isinstance(data.source, DataSource):
        return None, _timed(islice(data.train_dataloader(), _BATCHES))
    rows = data.rows("train")
    # Not the DataModule's own data set, which may read everything into memory. Bad samples are found by
    # reading single ones; here another one takes their place.
    reading = Reading(data.processors, data.teacher_processors, data.seed, "train", substitute=True)
    dataset: Any = data.make_dataset(rows, reading)
    sampler: Any = data.make_sampler("train", dataset)
    return len(sampler), _timed(dataset[key] for key in islice(sampler, _BATCHES))


def _timed(batches: Iterable[Batch | Substituted]) -> Iterator[tuple[Batch, float]]:
    begin = time.perf_counter()
    for batch in batches:
        yield batch.batch if isinstance(batch, Substituted) else batch, time.perf_counter() - begin
        begin = time.perf_counter()


class _Trial:
    """Trains a module without a Trainer.

    Args:
        module: What is trained; it is no longer what it was.
        device: Where.
    """

    def __init__(self, module: DistillationModule, device: torch.device) -> None:
        self.module, self.device = module.to(device).train(), device
        if module.teacher is not None:
            module.teacher.to(device)
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(module.optimizer_factory, module)
        self.seen: dict[str, Tensor] = {}

    def step(self, batch: Batch) -> float:
        """One step; returns its seconds."""
        begin = time.perf_counter()
        batch = _moved(batch, self.device)
        module, teacher = self.module, self.module.teacher
        checks.all_can_be_read(batch, {"student": module.student.modalities})
        student = module.student(batch)
        self.seen = {"the student's logits": student.logits}
        answer = None
        if teacher is not None:
            inputs = {**batch["inputs"], **batch.get("teacher_inputs", {})}
            answer = teacher({**batch, "inputs": inputs})  # type: ignore[typeddict-item]
            self.seen["the teacher's logits"] = answer.logits
        terms = module.raw_terms(student, answer, batch)
        self.seen |= {f"the term {name!r}": value for name, value in terms.items()}
        self.optimizer.zero_grad()
        self._loss(terms, student, batch).backward()
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        self.seen |= {f"the gradient of {name}": gradient for name, gradient in gradients.items()}
        if all(bool(value.isfinite().all()) for value in self.seen.values()):
            if module.clip_rule is not None:
                named = module.named_parameters()
                module.clip_rule.clip((name.removeprefix("student."), p) for name, p in named)
            self.optimizer.step()
        return time.perf_counter() - begin

    def _loss(self, terms: dict[str, Tensor], student: ModelOutput, batch: Batch) -> Tensor:
        """What is trained on; a gradient balancer sees the batch, and refuses what does not suit it."""
        module = self.module
        if module.gradient_balancer is None:
            return module.total(terms)
        view = view_of(module.student, module.task, student, batch, 0, 0, module.seed)
        weighted = module.terms.weighted(terms, module.terms.weights_at(0, 0)) or terms
        return torch.stack(list(module.gradient_balancer.terms(weighted, view).values())).sum()

    def finite(self, findings: Findings) -> bool:
        """Whether everything in the last step was finite; the first that was not is a finding."""
        bad = [name for name, value in self.seen.items() if not bool(value.isfinite().all())]
        if bad:
            findings.error(
                NonFiniteError(
                    where="one training batch",
                    found=f"{bad[0]} not finite" + (f", and {len(bad) - 1} more" if len(bad) > 1 else ""),
                    expected="finite numbers from the first step on",
                    fix="look at the weights of the model that is named, at the inputs, and at the targets",
                )
            )
        return not bad


def _moved(batch: Batch, device: torch.device) -> Batch:
    from lightning.pytorch.utilities import move_data_to_device

    moved: Batch = move_data_to_device(batch, device)
    return moved


def _estimate(
    trial: _Trial,
    data: MultimodalDataModule,
    seconds: tuple[list[float], list[float]],
    batches: int | None,
    batch: Batch,
) -> Estimate:
    # The first step pays for what later ones find ready.
    read, step = (float(np.median(times[1:] or times)) for times in seconds)
    if data.in_memory:
        a_batch = step
    else:
        a_batch = max(read / data.num_workers, step) if data.num_workers else read + step
    size = sum(_bytes(x) for x in batch["inputs"].values())
    size += sum(_bytes(x) for x in batch.get("teacher_inputs", {}).values())
    samples = sum(len(data.rows(split)) for split in ("train", "val")) if data.in_memory else 0
    teacher = trial.module.teacher
    return Estimate(
        read,
        step,
        batches,
        None if batches is None else batches * a_batch,
        parameters=_size(trial.trained),
        state=_size([v for s in trial.optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]),
        teacher=0 if teacher is None else _size(list(teacher.tensors())),
        kept=size * samples // len(batch["sample_id"]),
        once=read * samples / len(batch["sample_id"]),
        peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        device=str(trial.device),
    )


def _bytes(inputs: Inputs) -> int:
    return _size(list(inputs.values()) if isinstance(inputs, dict) else [inputs])


def _size(tensors: list[Tensor] | list[nn.Parameter]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
