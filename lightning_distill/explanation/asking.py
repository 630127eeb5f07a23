"""One pass over the labelled samples of a split, with every model of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from lightning_distill import checks, evaluation_checks
from lightning_distill.batch_rows import some_samples
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.in_order import batches_in_order
from lightning_distill.errors import ConfigError
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch, labelled_rows
from lightning_distill.teachers import Teacher

Asked = MultimodalModel | Teacher


@dataclass(frozen=True)
class Said:
    """Logits of every model for the same samples, in the order of the rows.

    Attributes:
        rows: Row numbers of the data source, int64 "samples".
        sample_id: int64 "samples".
        target: As in `Batch`.
        logits: Name of a model -> float32 "samples outputs"; the teacher's in the student's order.
    """

    rows: Tensor
    sample_id: Tensor
    target: Tensor
    logits: dict[str, Tensor]


def both(own: Said, theirs: Said) -> Said:
    """What two rounds have said of the samples of both.

    Args:
        own: Of some models.
        theirs: Of others, on the same split.

    Raises:
        ConfigError: If they have no sample in common.
    """
    mine, other = torch.isin(own.rows, theirs.rows), torch.isin(theirs.rows, own.rows)
    if not mine.any():
        raise ConfigError(
            where="answers",
            found="no sample that has what each of the models reads",
            expected="one or more",
            fix="name the other split",
        )
    logits = {name: x[mine] for name, x in own.logits.items()}
    logits |= {name: x[other] for name, x in theirs.logits.items()}
    return Said(own.rows[mine], own.sample_id[mine], own.target[mine], logits)


def ask(
    models: Mapping[str, Asked],
    data: MultimodalDataModule,
    split: str,
    student: MultimodalModel | None = None,
) -> Said:
    """Ask every model about every labelled sample that has a modality which each of them reads.

    Args:
        models: Name -> what answers; they are on the CPU afterwards.
        data: Of the run.
        split: "val" or "test"; "train" without augmentation.
        student: Whose order of classes a teacher answers in; None is the one among the models.

    Raises:
        ConfigError: If a model does not fit the data, a teacher is not what it was in training, or there is
            no such sample.
        TeacherError: If the teacher does not fit the student, or is asked for what it never was.
    """
    like = student or models["student"]
    models = {name: _fitting(model, like, data) for name, model in models.items()}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teachers = [model for model in models.values() if isinstance(model, Teacher)]
    readers = [
        tuple(model.requirements if isinstance(model, Teacher) else model.modalities)
        for model in models.values()
    ]
    try:
        _move(models, device)
        for teacher in teachers:
            teacher.open(data, (split,))
        return _asked(models, readers, data, split, device)
    finally:
        for teacher in teachers:
            teacher.close()
        _move(models, torch.device("cpu"))


def _fitting(model: Asked, student: Asked, data: MultimodalDataModule) -> Asked:
    """The model in evaluation mode; a teacher in the student's order of classes."""
    assert isinstance(student, MultimodalModel)
    if isinstance(model, MultimodalModel):
        evaluation_checks.data_have(data, model.modalities, "answers")
        evaluation_checks.classes_fit(model, data, "answers")
        checks.preprocessing_fits(model, None, data)
        return model.eval()
    if model.changes:
        raise ConfigError(
            where="the teacher's answers",
            found=f"a {type(model).__name__}, which changes during training",
            expected="a teacher that is after training what it was before",
            fix="compare with the student alone",
        )
    teacher = checks.classes_fit(student, model, data.classes)
    assert teacher is not None
    checks.preprocessing_fits(student, teacher, data)
    return teacher


def _move(models: Mapping[str, Asked], device: torch.device) -> None:
    for model in models.values():
        model.to(device)


def _asked(
    models: Mapping[str, Asked],
    readers: Sequence[Sequence[str]],
    data: MultimodalDataModule,
    split: str,
    device: torch.device,
) -> Said:
    rows = torch.from_numpy(data.rows(split))
    parts: dict[str, list[Tensor]] = {name: [] for name in ("rows", "sample_id", "target", *models)}
    substitute = data.on_bad_sample == "substitute"
    batches = batches_in_order(data, (split,), torch.device("cpu"), substitute)
    for kept, batch in _kept(batches, readers):
        parts["rows"].append(rows[kept])
        parts["sample_id"].append(batch["sample_id"])
        parts["target"].append(batch["target"])
        for name, model in models.items():
            parts[name].append(_logits(model, batch, device))
    if not parts["rows"]:
        raise ConfigError(
            where=f"answers, split {split}",
            found="no sample with a label and a modality that every model reads",
            expected="one or more",
            fix="label some samples of this split, or name the other split",
        )
    whole = {name: torch.cat(tensors) for name, tensors in parts.items()}
    return Said(whole["rows"], whole["sample_id"], whole["target"], {name: whole[name] for name in models})


def _kept(batches: Iterator[Batch], readers: Sequence[Sequence[str]]) -> Iterator[tuple[Tensor, Batch]]:
    """Places in the split, and what is there, of samples that have a label and can be read."""
    start = 0
    for batch in batches:
        keep = labelled_rows(batch["target"])
        for modalities in filter(None, readers):
            there = [batch["present"][m] for m in modalities if m in batch["present"]]
            keep = keep & torch.stack(there).any(dim=0) if there else keep
        places = keep.nonzero()[:, 0]
        if len(places):
            yield start + places, some_samples(batch, places)
        start += len(keep)


def _logits(model: Asked, batch: Batch, device: torch.device) -> Tensor:
    fetched = model.fetch(batch) if isinstance(model, Teacher) else batch
    moved: Batch = move_data_to_device(fetched, device)
    if isinstance(model, Teacher):
        # As in training: the teacher reads its own inputs where the batch has such.
        moved = {**moved, "inputs": {**moved["inputs"], **moved.get("teacher_inputs", {})}}  # type: ignore[typeddict-item]
    with torch.no_grad():
        return model(moved).logits.float().cpu()
