"""Any term, on all rows but those of some classes, or some samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import DistillationLoss, Shapes
from lightning_distill.losses.rows_base import RowsLoss
from lightning_distill.structures import UNLABELLED, Batch, ModelOutput, Outputs

_LOGITS: Final = "logits"
_ID: Final = re.compile(r"-?[0-9]{1,19}")


class Excluding(RowsLoss):
    """loss(student_R, teacher_R, batch_R), where R are the rows that are not excluded; 0 where there is none.

    For classes and samples of which the teacher says what is not so: there the student then learns from
    labels alone. A row without a label is of the class that the teacher holds most likely; without a teacher
    it stays. Other terms and the task's loss still see every row. With neither classes nor samples it is the
    term itself.

    Args:
        loss: The term. What it trains is part of it.
        classes: Indices of classes, in the order of the logits; for models that say one class a sample.
        samples: Text file with one sample id a line, as `sample_id` tells it. It is read here, and needed
            again on resuming.

    Raises:
        ConfigError: If a class index is negative, or the file is missing, empty or holds a line that is no
            id; at setup, if there is no such class.

    Source: composition; no formula of its own.
    """

    _ids: Tensor
    _classes: Tensor

    def __init__(
        self, loss: DistillationLoss, classes: list[int] | None = None, samples: Path | None = None
    ) -> None:
        super().__init__(loss)
        classes = list(classes or ())
        _check(classes)
        if classes:
            self.suits = loss.suits & {Outputs.CLASSES}  # type: ignore[misc]
        ids = _read_ids(samples) if samples is not None else ()
        # Not in checkpoints: the config says what is excluded.
        self.register_buffer("_classes", torch.tensor(classes, dtype=torch.int64), persistent=False)
        self.register_buffer("_ids", torch.tensor(ids, dtype=torch.int64), persistent=False)
        self._most = max(classes, default=-1)

    @property
    def student_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the term; the logits too where classes are excluded, so that their number is known."""
        return (*self.loss.student_layers, *([_LOGITS] if self._most >= 0 else []))

    def adapt(self, student: Shapes, teacher: Shapes) -> None:
        """Tell the term.

        Raises:
            ConfigError: If a class is excluded that the student does not know.
        """
        if self._most >= 0:
            *rest, logits = student
            self._check_known(logits[0])
            student = tuple(rest)
        super().adapt(student, teacher)

    def chosen(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> Tensor:
        """Those that are not excluded: bool "batch"."""
        out = torch.isin(batch["sample_id"], self._ids.to(batch["sample_id"].device))
        if self._most >= 0:
            self._check_known(student.logits.shape[1])
            target = batch["target"]
            if teacher is not None:
                target = torch.where(target == UNLABELLED, teacher.logits.argmax(dim=1), target)
            out = out | torch.isin(target, self._classes.to(target.device))
        return ~out

    def _check_known(self, classes: int) -> None:
        if self._most >= classes:
            raise ConfigError(
                where="Excluding.classes",
                found=f"the class {self._most} and a student of {classes} classes",
                expected=f"indices from 0 to {classes - 1}",
                fix="count the classes from 0, in the order of the data's `classes`",
            )


def _read_ids(path: Path) -> tuple[int, ...]:
    """Sample ids of a text file, one a line, in ascending order; empty lines are passed over.

    Args:
        path: The file.

    Raises:
        ConfigError: If it cannot be read, holds no id, or a line is no whole number of 64 bits.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _no_ids(path, error) from error
    words = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    found = {_id_of(word, path, number) for number, word in words if word}
    if not found:
        raise _no_ids(path, "no id in it")
    return tuple(sorted(found))


def _id_of(word: str, path: Path, line: int) -> int:
    number = int(word) if _ID.fullmatch(word) else None
    if number is None or not -(2**63) <= number < 2**63:
        raise _no_ids(f"{path}, line {line}", repr(word))
    return number


def _no_ids(where: object, found: object) -> ConfigError:
    return ConfigError(
        where=f"Excluding.samples, {where}",
        found=found,
        expected="a text file with one sample id a line, each a whole number of 64 bits",
        fix="write ids as `sample_id` in predictions.parquet tells them, or let "
        "`lightning-distill report RUN` write the file",
    )


def _check(classes: Sequence[int]) -> None:
    if any(index < 0 for index in classes):
        raise ConfigError(
            where="Excluding.classes",
            found=list(classes),
            expected="indices of classes, from 0",
            fix="count the classes from 0, in the order of the data's `classes`",
        )
