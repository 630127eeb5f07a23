"""A teacher that has answered already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_distill.errors import ConfigError, TeacherError, nearest
from lightning_distill.identity import identity_of
from lightning_distill.knowledge import Knowledge
from lightning_distill.structures import OUTPUT_NAMES, Batch, ModelOutput
from lightning_distill.teachers.base import Teacher


class StoredTeacher(Teacher):
    """Answers from a folder of stored knowledge, by `sample_id`; the teacher itself is not needed.

    What is stored was said about the sample as it is in evaluation. Where training augments, the student sees
    another view than the teacher did; a teacher that is run sees the same one.

    Args:
        folder: Written by `lightning-distill knowledge`. It must hold the splits that are used: training and
            validation samples, where both are run. In other splits, train with `limit_val_batches: 0`.
        modality: Take the answers of the teacher with this modality alone; a sample without it is an error.

    Raises:
        CheckpointError: If it is no such folder; in training, if it does not know a sample.
        TeacherError: If that modality was not stored; in training, if a sample lacks it.
    """

    def __init__(self, folder: Path, modality: str | None = None) -> None:
        self.knowledge = Knowledge.open(folder)
        self._prefix = "" if modality is None else f"alone/{modality}/"
        names = [n for n in self.knowledge.arrays if n.startswith(self._prefix)]
        self._names = [n for n in names if modality is not None or not n.startswith("alone/")]
        if not self._names:
            alone = {n.split("/")[1] for n in self.knowledge.arrays if n.startswith("alone/")}
            raise TeacherError(
                where=f"StoredTeacher, modality {modality!r}",
                found=f"answers with {', '.join(sorted(alone)) or 'no modality'} alone"
                + nearest(modality or "", alone),
                expected="one that was stored",
                fix="write the folder with --alone, or leave modality out",
            )
        self.num_classes = int(self.knowledge.arrays[f"{self._prefix}logits"].shape[1])
        self.classes = self.knowledge.classes
        self.preprocessing = None  # it reads no input
        self._device = torch.device("cpu")
        self.read_layers(())

    def read_layers(self, names: Sequence[str]) -> None:
        """Read these from the folder too; beside them only logits and embedding are read."""
        wanted = ["logits"] + [n for n in ("embedding",) if f"{self._prefix}{n}" in self._names]
        for name in names:
            file = name if name in OUTPUT_NAMES or name.startswith("features.") else f"layers/{name}"
            if f"{self._prefix}{file}" not in self._names:
                known = [n.removeprefix(self._prefix).removeprefix("layers/") for n in self._names]
                raise ConfigError(
                    where=f"layer {name!r} of the teacher",
                    found=f"stored knowledge without it{nearest(name, known)}",
                    expected=f"one of {', '.join(known)}",
                    fix=f"write it again: lightning-distill knowledge --layers {name}",
                )
            wanted.append(file)
        self._wanted = list(dict.fromkeys(wanted))

    def __call__(self, batch: Batch) -> ModelOutput:
        """What was said about these samples, as float32."""
        rows = self.knowledge.rows(
            batch["sample_id"].cpu().numpy(), [f"{self._prefix}{name}" for name in self._wanted]
        )
        lacking = np.isnan(rows[f"{self._prefix}logits"]).any(axis=1) if self._prefix else np.zeros(1, bool)
        if lacking.any():
            raise TeacherError(
                where=f"samples {batch['sample_id'][torch.from_numpy(lacking)].tolist()[:8]}",
                found=f"no {self._prefix.split('/')[1]}",
                expected="samples that have it",
                fix="train on samples that have it: data.sampling ModalityPaired",
            )
        found = {n.removeprefix(self._prefix): self._tensor(x) for n, x in rows.items()}
        return ModelOutput(
            found["logits"],
            found.get("embedding"),
            {n.removeprefix("features."): x for n, x in found.items() if n.startswith("features.")},
            layers={n.removeprefix("layers/"): x for n, x in found.items() if n.startswith("layers/")},
        )

    def _tensor(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows.astype(np.float32)).to(self._device, non_blocking=True)

    def to(self, device: torch.device) -> None:
        """Answer on that device from now on."""
        self._device = device

    def tensors(self) -> Iterator[Tensor]:
        """None."""
        return iter(())

    def fingerprints(self) -> Mapping[str, str]:
        """Of the folder's arrays, by the checksums in it."""
        return {name: identity_of(entry) for name, entry in self.knowledge.content["arrays"].items()}
