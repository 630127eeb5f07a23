"""Images, sounds and texts are decoded in parallel processes: some of them, or all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lightning_distill.commands.doctor.findings import SHOWN, Findings
from lightning_distill.commands.doctor.parts import Parts
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.source import SPLITS, DataSource, Waveform
from lightning_distill.data.token_processor import TokenProcessor
from lightning_distill.errors import DistillError, SampleError, WorkerError
from lightning_distill.randomness import generator

_CUT: Final = " cut at "
_MANY_CUT: Final = 0.05
_WATCHED: Final = 64
"""Processes at most."""


@dataclass(frozen=True)
class Looked:
    """One sample that was read.

    Attributes:
        errors: Of its modalities.
        measured: Name of a measure -> value.
    """

    errors: tuple[DistillError, ...]
    measured: dict[str, float]


@dataclass
class Measures:
    """Of all samples that were read.

    Attributes:
        samples: How many.
        of: How many there are.
        values: Name of a measure -> values.
        survived: Whether no process died over it.
    """

    samples: int
    of: int
    survived: bool = True
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


class _Samples(Dataset[Looked]):
    """Reads single rows, in whatever process."""

    def __init__(self, source: DataSource, data: MultimodalDataModule, rows: NDArray[np.int64]) -> None:
        self.source, self.rows = source, rows
        self.watch = torch.full((_WATCHED,), -1, dtype=torch.int64).share_memory_()
        everyone = (data.processors, data.teacher_processors)
        self.processors = {m: [p[m] for p in everyone if m in p] for m in data.read_modalities}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Looked:
        row, worker = int(self.rows[at]), get_worker_info()
        if worker is not None:
            self.watch[worker.id] = row
        errors: list[DistillError] = []
        measured: dict[str, float] = {}
        for modality, processors in self.processors.items():
            if not self.source.samples.present[modality][row]:
                continue
            try:
                raw = self.source.load(modality, row)
                measured |= _measured(modality, raw)
                for processor in processors:
                    measured |= _cut(modality, processor, processor.collate([processor.prepare(raw)]))
            except DistillError as error:
                errors.append(error)
            except Exception as error:  # a processor's ValueError, or whatever the user's own code raises
                errors.append(_unprepared(f"{self.source.describe(row)}, {modality}", error))
        return Looked(tuple(errors), measured)


def _unprepared(where: str, error: Exception) -> SampleError:
    return SampleError(
        where=where,
        found=f"{type(error).__name__}: {error}",
        expected="a sample that can be prepared",
        fix="repair the sample, or leave its cell empty to mark it absent",
    )


def _measured(modality: str, raw: Any) -> dict[str, float]:
    if isinstance(raw, np.ndarray) and raw.ndim >= 2 and modality == "image":
        return {"image height": float(raw.shape[0]), "image width": float(raw.shape[1])}
    if isinstance(raw, Waveform):
        rate = float(raw.sample_rate)
        return {f"{modality} rate, Hz": rate, f"{modality} length, s": len(raw.samples) / rate}
    return {f"{modality} length, characters": float(len(raw))} if isinstance(raw, str) else {}


def _cut(modality: str, processor: object, collated: object) -> dict[str, float]:
    """Whether a text lost its end."""
    if not isinstance(processor, TokenProcessor):
        return {}
    cut, processor.truncated = float(processor.truncated > 0), 0
    return {f"{modality}{_CUT}{processor.max_length} tokens": cut}


def read_samples(
    parts: Parts, findings: Findings, console: Console, samples: int | None, workers: int
) -> Measures | None:
    """Read a seeded spread of the samples, with a progress bar.

    Args:
        parts: What is looked at.
        findings: Where errors go.
        console: Where the bar goes.
        samples: How many to read; None reads all.
        workers: Processes.
    """
    data = parts.data
    if data is None or not isinstance(data.source, DataSource):
        return None
    with findings.step("data, samples"):
        used = np.unique(np.concatenate([data.rows(split) for split in SPLITS]))
        rows = used
        if samples is not None and samples < len(used):
            rows = np.sort(generator("doctor", 0).choice(used, samples, replace=False))
        measures = Measures(0, len(used))
        _keep(_read(_Samples(data.source, data, rows), measures, findings, console, workers), findings)
        _warn_of_cuts(measures, findings)
        return measures
    return None


def _read(
    samples: _Samples, measures: Measures, findings: Findings, console: Console, workers: int
) -> list[DistillError]:
    """Read all of these; returns what is wrong with them."""
    looked = DataLoader(
        samples,
        batch_size=None,
        num_workers=min(workers, max(1, len(samples) // 8), _WATCHED),
        worker_init_fn=_one_thread,
    )
    errors: list[DistillError] = []
    try:
        for one in _shown(looked, len(samples), console):
            measures.samples += 1
            errors += one.errors
            for name, value in one.measured.items():
                measures.values[name].append(value)
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        measures.survived = False
        findings.error(_died(samples, error))
    return errors


def _shown(looked: Iterable[Looked], total: int, console: Console) -> Iterable[Looked]:
    columns = (TextColumn("reading samples"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        for one in looked:
            progress.advance(task)
            yield one


def _keep(errors: Sequence[DistillError], findings: Findings) -> None:
    for error in errors[:SHOWN]:
        findings.error(error)
    if len(errors) > SHOWN:
        findings.error(
            SampleError(
                where="data, samples",
                found=f"{len(errors) - SHOWN} more samples that cannot be read, {len(errors)} in all",
                expected="samples that can be read",
                fix="repair them; `on_bad_sample: substitute` gets by with up to 1 % of them",
            )
        )


def _warn_of_cuts(measures: Measures, findings: Findings) -> None:
    for name, values in measures.values.items():
        share = float(np.mean(values))
        told, fix = f"{share:.1%} of the texts lose their ends", "give the processor a larger max_length"
        if _CUT in name and share > _MANY_CUT:
            findings.warn(f"data, {name}", told, "few texts that are cut", fix)
        elif _CUT in name and share > 0:
            findings.note(f"data, {name}", told, fix)


def _died(samples: _Samples, error: RuntimeError) -> WorkerError:
    reading = [samples.source.describe(row) for row in samples.watch.tolist() if row >= 0]
    return WorkerError(
        where="; ".join(reading) or "data, samples",
        found=f"a process that died while it read {'one of these' if len(reading) > 1 else 'this'} "
        f"({' '.join(str(error).split())})",
        expected="every sample to be read",
        fix="look at those files, or remove them; nothing further was tried with the data",
    )


def _one_thread(worker: int) -> None:
    """OpenCV's own threads and forked processes do not go together."""
    import cv2

    cv2.setNumThreads(0)
