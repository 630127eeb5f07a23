"""Asking a teacher about a data set, once, and keeping what it says."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_distill import __version__
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.knowledge import CONFIG, FORMAT, IDS, Knowledge, checksum
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import Teacher

Array = NDArray[Any]


@dataclass(frozen=True)
class Origin:
    """Where knowledge comes from; written beside it.

    Attributes:
        split: Of the data.
        fingerprint: Of the data source, empty where it has none.
        preprocessing: modality -> settings of the processor.
    """

    split: str = "train"
    fingerprint: str = ""
    preprocessing: Mapping[str, Mapping[str, Any]] | None = None


def write_knowledge(
    teacher: Teacher,
    batches: Iterable[Batch],
    folder: Path | str,
    layers: Sequence[str] = (),
    alone: Sequence[str] = (),
    dtype: Literal["float16", "float32"] = "float16",
    origin: Origin | None = None,
) -> Knowledge:
    """Ask a teacher about every sample, and write the folder as a whole or not at all.

    Args:
        teacher: On the device of the batches.
        batches: Not augmented; of a sample that comes again, the first answer counts.
        folder: Must not exist.
        layers: Paths of modules whose outputs are kept too.
        alone: Modalities with which alone the teacher is asked as well; a sample without that modality gets
            NaN there.
        dtype: float16 halves the folder; its largest number is 65504.
        origin: Is written into knowledge.json.

    Raises:
        ConfigError: If the folder exists, there is no sample, or a number is too large.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        raise ConfigError(
            where=folder, found="a folder or file", expected="a new folder", fix="remove it or name another"
        )
    for modality in alone:
        if modality not in teacher.requirements:
            raise ConfigError(
                where="knowledge, alone",
                found=f"{modality!r}{nearest(modality, teacher.requirements)}",
                expected=f"what the teacher reads: {', '.join(teacher.requirements)}",
                fix="name one of these",
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        teacher.read_layers(layers)
        writer = _Writer(partial, np.dtype(dtype))
        for batch in batches:
            writer.add(batch["sample_id"].cpu().numpy(), _answers(teacher, batch, alone))
        entries = writer.finish()
        told = origin or Origin()
        content = {
            "format": FORMAT,
            "lightning_distill": __version__,
            "classes": None if teacher.classes is None else list(teacher.classes),
            "split": told.split,
            "samples": entries[IDS]["shape"][0],
            "data_fingerprint": told.fingerprint,
            "preprocessing": told.preprocessing,
            "arrays": entries,
        }
        (partial / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Knowledge.open(folder)


def _answers(teacher: Teacher, batch: Batch, alone: Sequence[str]) -> dict[str, torch.Tensor]:
    inputs = {**batch["inputs"], **batch.get("teacher_inputs", {})}
    batch = {**batch, "inputs": inputs}  # type: ignore[typeddict-item]
    found = _arrays(teacher(batch))
    for modality in alone:
        there = batch["present"][modality]
        # Samples without it are asked as if they had it, for a model refuses what has nothing to read.
        present = {m: torch.full_like(p, m == modality) for m, p in batch["present"].items()}
        for name, x in _arrays(teacher({**batch, "present": present})).items():
            other = name.startswith("features.") and name != f"features.{modality}"
            if not other:
                gone = ~there.view(-1, *[1] * (x.ndim - 1))
                found[f"alone/{modality}/{name}"] = x.float().masked_fill(gone, torch.nan)
    return found


def _arrays(output: ModelOutput) -> dict[str, torch.Tensor]:
    """Name of the file, without its ending -> tensor."""
    arrays = {"logits": output.logits, **{f"features.{m}": x for m, x in output.features.items()}}
    if output.embedding is not None:
        arrays["embedding"] = output.embedding
    return arrays | {f"layers/{path}": x for path, x in output.layers.items()}


class _Writer:
    """Gathers rows as they come into flat files, then writes them in the order of their ids."""

    def __init__(self, folder: Path, dtype: np.dtype[Any]) -> None:
        self._folder, self._dtype = folder, dtype
        self._ids: list[Array] = []
        self._shapes: dict[str, tuple[int, ...]] = {}

    def _raw(self, name: str) -> Path:
        return self._folder / f"{name}.raw"

    def add(self, ids: Array, answers: Mapping[str, torch.Tensor]) -> None:
        self._ids.append(ids)
        for name, x in answers.items():
            values = x.float().cpu().numpy()
            with np.errstate(over="ignore"):  # told below, with its name
                kept = values.astype(self._dtype)
            if np.isinf(kept).sum() > np.isinf(values).sum():
                raise ConfigError(
                    where=f"knowledge, {name}",
                    found=f"{np.abs(values[np.isinf(kept)]).max():.3g}, too large for {self._dtype}",
                    expected="numbers below 65504",
                    fix="store float32",
                )
            shape = tuple(kept.shape[1:])
            if self._shapes.setdefault(name, shape) != shape:
                raise ConfigError(
                    where=f"knowledge, {name}",
                    found=f"{shape} in one batch and {self._shapes[name]} in another",
                    expected="one shape for all samples",
                    fix="pad every batch to one length, or leave that layer out",
                )
            self._raw(name).parent.mkdir(parents=True, exist_ok=True)
            with self._raw(name).open("ab") as file:
                file.write(kept.tobytes())

    def finish(self) -> dict[str, dict[str, Any]]:
        ids = np.concatenate(self._ids) if self._ids else np.empty(0, np.int64)
        ordered, order = np.unique(ids, return_index=True)
        if not len(ids):
            raise ConfigError(
                where="knowledge",
                found="no sample",
                expected="at least one",
                fix="check the split",
            )
        np.save(self._folder / f"{IDS}.npy", ordered.astype(np.int64))
        for name, shape in self._shapes.items():
            raw: Array = np.memmap(self._raw(name), self._dtype, "r", shape=(len(ids), *shape))
            out = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                self._folder / f"{name}.npy", "w+", self._dtype, (len(order), *shape)
            )
            for at in range(0, len(order), 4096):
                out[at : at + 4096] = raw[order[at : at + 4096]]
            out.flush()
            del out, raw
            self._raw(name).unlink()
        return {name: _entry(self._folder, name) for name in (IDS, *self._shapes)}


def _entry(folder: Path, name: str) -> dict[str, Any]:
    array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    entry = {"dtype": str(array.dtype), "shape": list(array.shape)}
    return {**entry, "xxh3_64": checksum(folder / f"{name}.npy")}
