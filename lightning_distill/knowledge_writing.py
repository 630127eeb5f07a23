"""Asking a teacher about a data set, once, and keeping what it says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_distill.errors import ConfigError, nearest
from lightning_distill.knowledge import CONFIG, FORMAT, IDS, Knowledge
from lightning_distill.knowledge_rows import ROWS, RowWriter
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import Teacher
from lightning_distill.version import __version__
from lightning_distill.writing.disk import refusals_named
from lightning_distill.writing.whole_folder import whole_folder

Array = NDArray[Any]


@dataclass(frozen=True)
class Origin:
    """Where knowledge comes from; written beside it.

    Attributes:
        split: Of the data.
        fingerprint: Of the data source, empty where it has none.
        preprocessing: modality -> settings of the processor.
        fusion: How it was made of other knowledge, see `lightning_distill.knowledge_fusion`; None where a
            teacher was asked.
    """

    split: str = "train"
    fingerprint: str = ""
    preprocessing: Mapping[str, Mapping[str, Any]] | None = None
    fusion: Mapping[str, Any] | None = None


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
        DiskError: If the disk refuses.
    """
    for modality in alone:
        if modality not in teacher.requirements:
            raise ConfigError(
                where="knowledge, alone",
                found=f"{modality!r}{nearest(modality, teacher.requirements)}",
                expected=f"what the teacher reads: {', '.join(teacher.requirements)}",
                fix="name one of these",
            )

    def parts() -> Iterator[tuple[Array, Mapping[str, Array]]]:
        teacher.read_layers(layers)
        for batch in batches:
            answers = _answers(teacher, batch, alone)
            yield batch["sample_id"].cpu().numpy(), {n: x.float().cpu().numpy() for n, x in answers.items()}

    return _write(Path(folder), parts(), teacher.classes, np.dtype(dtype), origin or Origin())


def write_arrays(
    folder: Path | str,
    sample_id: Array,
    arrays: Mapping[str, Array],
    classes: Sequence[str] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    origin: Origin | None = None,
) -> Knowledge:
    """Write what is known already as a folder of knowledge, as a whole or not at all.

    Args:
        folder: Must not exist.
        sample_id: int64 "samples", in any order; of an id that comes again, the first row counts.
        arrays: name -> float "samples ...", named as in `lightning_distill.knowledge`; `logits` is needed.
        classes: Names in the order of the logits, where known.
        dtype: float16 halves the folder; its largest number is 65504.
        origin: Is written into knowledge.json.

    Raises:
        ConfigError: If the folder exists, there is no sample, arrays do not fit, or a number is too large.
        DiskError: If the disk refuses.

    >>> from tempfile import TemporaryDirectory
    >>> logits = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> with TemporaryDirectory() as place:
    ...     known = write_arrays(f"{place}/k", np.array([7, 3]), {"logits": logits})
    ...     known.sample_id.tolist(), known.arrays["logits"].tolist()
    ([3, 7], [[0.0, 2.0], [1.0, 0.0]])
    """
    shapes = {name: np.shape(x) for name, x in arrays.items()}
    logits = shapes.get("logits", ())
    fits = len(logits) == 2 and (classes is None or len(classes) == logits[1])
    if not fits or IDS in arrays or any(shape[:1] != (len(sample_id),) for shape in shapes.values()):
        raise ConfigError(
            where=f"write_arrays, {folder}",
            found=f"arrays {shapes} for {len(sample_id)} samples"
            + ("" if classes is None else f" and {len(classes)} classes"),
            expected='`logits` "samples classes" and arrays with a row for each sample',
            fix="give the ids apart from the arrays, and one row an id",
        )
    parts = (
        (np.asarray(sample_id[at : at + ROWS], np.int64), {n: x[at : at + ROWS] for n, x in arrays.items()})
        for at in range(0, len(sample_id), ROWS)
    )
    return _write(Path(folder), parts, classes, np.dtype(dtype), origin or Origin())


def check_new(folder: Path) -> None:
    """What is to be written must not be there.

    Raises:
        ConfigError: If it is.
    """
    if folder.exists():
        raise ConfigError(
            where=folder, found="a folder or file", expected="a new folder", fix="remove it or name another"
        )


def _write(
    folder: Path,
    parts: Iterable[tuple[Array, Mapping[str, Array]]],
    classes: Sequence[str] | None,
    dtype: np.dtype[Any],
    origin: Origin,
) -> Knowledge:
    """Beside the folder first, then renamed."""
    folder = folder.absolute()
    check_new(folder)
    with whole_folder(folder) as partial:
        writer = RowWriter(partial, dtype)
        for ids, arrays in parts:
            with refusals_named(folder):
                writer.add(ids, arrays)
        with refusals_named(folder):
            entries = writer.finish()
            content = _description(entries, classes, origin)
            (partial / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return Knowledge.open(folder)


def _description(
    entries: Mapping[str, Mapping[str, Any]], classes: Sequence[str] | None, origin: Origin
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "lightning_distill": __version__,
        "classes": None if classes is None else list(classes),
        "split": origin.split,
        "samples": entries[IDS]["shape"][0],
        "data_fingerprint": origin.fingerprint,
        "preprocessing": origin.preprocessing,
        **({} if origin.fusion is None else {"fusion": origin.fusion}),
        "arrays": entries,
    }


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
