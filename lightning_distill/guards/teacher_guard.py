"""Seeing that a teacher stays as it is and out of what is trained."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_distill.errors import CheckpointError, TeacherError
from lightning_distill.identity import identity_of
from lightning_distill.teachers.base import Teacher


class TeacherGuard:
    """Remembers what a teacher was when a training began.

    To look costs no reading of weights: torch counts how often a tensor was written to in place, and only
    one whose count has changed, or that is another object than before, is hashed again.

    Args:
        teacher: One that does not learn; of one that does, nothing is remembered.

    Attributes:
        identity: Hash of all that must not change; empty for a teacher that learns.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._known = {} if teacher.changes else dict(teacher.fingerprints())
        self.identity = "" if teacher.changes else identity_of(self._known)
        self._seen: dict[str, tuple[weakref.ref[Tensor], int]] = {}
        for name, tensor in self._watched():
            self._seen[name] = (weakref.ref(tensor), tensor._version)

    def _watched(self) -> Iterator[tuple[str, Tensor]]:
        """Without what is split over processes, which is gathered and freed all the time."""
        named = self._teacher.named_tensors() if self._known else ()
        return ((name, x) for name, x in named if name in self._known and not hasattr(x, "to_local"))

    def unchanged(self) -> None:
        """See that it is as it was.

        Raises:
            TeacherError: If a tensor has other values than before; names it.
        """
        for name, tensor in self._watched():
            before, version = self._seen.get(name, (None, 0))
            if before is not None and before() is tensor and version == tensor._version:
                continue
            if identity_of(tensor) != self._known[name]:
                raise TeacherError(
                    where=f"teacher, {name}",
                    found="other values than when training began",
                    expected="a teacher that stays as it is",
                    fix="give the teacher a copy: FrozenTeacher(copy.deepcopy(model)); one that is "
                    "to follow the student is an EmaTeacher",
                )
            self._seen[name] = (weakref.ref(tensor), tensor._version)

    def same_as_before(self, identity: str | None) -> None:
        """See that a training goes on with the teacher it began with.

        Args:
            identity: Of the teacher in the checkpoint, where it tells.

        Raises:
            CheckpointError: If it is another one.
        """
        if identity and self.identity and identity != self.identity:
            raise CheckpointError(
                where="checkpoint, teacher",
                found=f"a teacher whose weights have the hash {self.identity}",
                expected=f"{identity}, that of the teacher the training began with",
                fix="give the teacher of before, or start a new run",
            )


def nothing_shared(module: nn.Module, teacher: Teacher) -> None:
    """No tensor of the teacher may be trained, saved or clipped with the student, nor share memory with it.

    Raises:
        TeacherError: If one is; names it.
    """
    theirs = {at for t in teacher.tensors() if (at := _memory(t))}
    ours = [*module.named_parameters(), *module.named_buffers()]
    shared = [name for name, t in ours if _memory(t) in theirs]
    if shared:
        raise TeacherError(
            where="teacher and student",
            found=f"{len(shared)} shared tensors, such as {shared[0]!r}",
            expected="two models with their own weights",
            fix="give the teacher a copy: FrozenTeacher(copy.deepcopy(model))",
        )


def nothing_stepped(optimizers: Iterable[Optimizer], teacher: Teacher) -> None:
    """No optimizer may hold a tensor of the teacher, whoever made it.

    Raises:
        TeacherError: If one does; names the tensors.
    """
    stepped = {_memory(p) for o in optimizers for group in o.param_groups for p in group["params"]} - {None}
    found = [name for name, tensor in teacher.named_tensors() if _memory(tensor) in stepped]
    if found:
        raise TeacherError(
            where="optimizer",
            found=f"{len(found)} parameters of the teacher: {', '.join(found[:8])}",
            expected="those of the student and of the terms only",
            fix="make the optimizer from the module's own parameters(), where the teacher is not",
        )


def _memory(tensor: Tensor) -> tuple[str, int] | None:
    """The memory a tensor lies in, also as a view of something larger; None where it has none of its own."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    if not local.numel() or local.device.type == "meta":
        return None
    at = local.untyped_storage().data_ptr()
    return (str(local.device), at) if at else None
