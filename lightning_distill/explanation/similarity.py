"""How similar the layers of teacher and student are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from lightning_distill.batch_rows import some_samples
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.in_order import batches_in_order
from lightning_distill.errors import ConfigError
from lightning_distill.explanation.layer_reader import LayerReader
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import ModelTeacher, Teacher, TeacherWrapper


@dataclass(frozen=True)
class Similarity:
    """Linear CKA of every layer of the student with every layer of the teacher.

    Attributes:
        student: Names of the student's layers, input to output.
        teacher: Of the teacher's.
        values: In [0, 1], float64 "student teacher".
        samples: How many it was measured on.
    """

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    values: Tensor
    samples: int


def similarity(
    student: MultimodalModel,
    teacher: Teacher,
    data: MultimodalDataModule,
    split: str = "test",
    most: int = 512,
) -> Similarity:
    """Compare layers on samples that have every modality both read, or on any where there are none.

    Of each encoder, or of a teacher that is another kind of model, some parts are chosen, spread evenly from
    input to output; of a teacher that is no model, what its answers hold. A map counts as its mean over
    places, tokens as their mean without padding. With fewer samples than features, CKA is large for any two
    layers: compare it within one map.

    Args:
        student: Of the run. It runs in evaluation mode, and is as before afterwards.
        teacher: Of the run; moved to the student's device.
        data: Of the run.
        split: "val" or "test".
        most: Samples, from the start of the split.

    Raises:
        ConfigError: If there are fewer than two samples that both can read.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited (1905.00414), section 3.
    """
    device = next(student.parameters()).device
    teacher.to(device)
    teacher.open(data, (split,))
    try:
        # A loader draws a seed for its workers.
        with _evaluating(student), torch.no_grad(), torch.random.fork_rng(devices=[]):
            mine, theirs = _read(student, teacher, _samples(student, teacher, data, split, most), device)
    finally:
        teacher.close()
    samples = len(next(iter(mine.values()))) if mine else 0
    if samples < 2:
        raise ConfigError(
            where=f"similarity of layers, split {split}",
            found=f"{samples} samples that both student and teacher can read",
            expected="two or more; some hundred tell more",
            fix="name the other split",
        )
    rows, columns = _grams(mine), _grams(theirs)
    values = [[_aligned(k, m) for m in columns.values()] for k in rows.values()]
    return Similarity(tuple(rows), tuple(columns), torch.tensor(values, dtype=torch.float64), samples)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """||X^T Y||_F^2 / (||X^T X||_F ||Y^T Y||_F) with centred columns; 0 where one side is constant.

    It is computed in double precision from X X^T and Y Y^T, whose inner product is the same.

    Args:
        x: X, "samples p".
        y: Y, "samples q".

    Returns:
        In [0, 1]; 1 where Y is X turned, mirrored, moved or made larger.

    Source: Kornblith et al. (1905.00414), section 3, with linear kernels; the biased estimator of HSIC, as
    there. `losses.linear_cka` has the unbiased one, for small batches.

    >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
    >>> round(linear_cka(x, 3 - 2 * x.flip(1)), 12)
    1.0
    """
    return _aligned(_gram(x), _gram(y))


def _gram(x: Tensor) -> Tensor:
    x = x.double()
    x = x - x.mean(dim=0)
    return x @ x.T


def _grams(layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of layers whose numbers are finite; half precision can overflow inside of a model."""
    return {name: _gram(x).cpu() for name, x in layers.items() if x.isfinite().all()}


def _aligned(k: Tensor, m: Tensor) -> float:
    both = k.norm() * m.norm()
    return float(((k * m).sum() / both).clamp(0, 1)) if both > 0 else 0.0


def _samples(
    student: MultimodalModel, teacher: Teacher, data: MultimodalDataModule, split: str, most: int
) -> Iterator[Batch]:
    """At most so many samples with all modalities that both read; else with any of each."""
    readers = [student.modalities, tuple(m for m in teacher.requirements if m in data.read_modalities)]

    def found(whole: bool) -> Iterator[Batch]:
        left = most
        for batch in batches_in_order(
            data, (split,), torch.device("cpu"), data.on_bad_sample == "substitute"
        ):
            kept = torch.stack([_there(batch, names, whole) for names in readers if names]).all(dim=0)
            rows = kept.nonzero()[:left, 0]
            if len(rows):
                yield some_samples(batch, rows)
            left -= len(rows)
            if not left:
                return

    batches = found(whole=True)
    first = next(batches, None)
    return found(whole=False) if first is None else chain([first], batches)


def _there(batch: Batch, names: Sequence[str], whole: bool) -> Tensor:
    present = torch.stack([batch["present"][m] for m in names if m in batch["present"]])
    return present.all(dim=0) if whole else present.any(dim=0)


def _read(
    student: MultimodalModel, teacher: Teacher, batches: Iterator[Batch], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the layers of both say of the samples: name -> "samples dim"."""

    def taught(batch: Batch) -> ModelOutput:
        # As in training: the teacher reads its own inputs where the batch has such.
        inputs = {**batch["inputs"], **batch.get("teacher_inputs", {})}
        return teacher({**batch, "inputs": inputs})

    readers = [LayerReader(student, student), LayerReader(_model_of(teacher), taught)]
    try:
        for batch in batches:
            moved: Batch = move_data_to_device(teacher.fetch(batch), device)
            for reader in readers:
                reader.read(moved)
    finally:
        for reader in readers:
            reader.close()
    mine, theirs = (reader.layers() for reader in readers)
    return mine, theirs


def _model_of(teacher: Teacher) -> nn.Module | None:
    while isinstance(teacher, TeacherWrapper):
        teacher = teacher.teacher
    return teacher.model if isinstance(teacher, ModelTeacher) else None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode during the block; each part afterwards as before."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
