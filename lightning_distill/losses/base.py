"""The contract of a distillation term: what the student should take over from the teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.ranks import alone
from lightning_distill.structures import Batch, ModelOutput, Outputs
from lightning_distill.tokens import TokenGrid, as_map

Shapes = tuple[tuple[int, ...], ...]
"""One shape a layer, without the batch dimension."""


class DistillationLoss(nn.Module, ABC):
    """Reads two `ModelOutput`s and returns a scalar.

    It holds neither the task loss nor its own weight: `DistillationModule` sums weighted terms. Adaptors
    (projectors, discriminators) are sub-modules, so that they reach optimizer and checkpoint; where their
    sizes depend on teacher and student, the term is an `Adapted` one.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset(Outputs)
    """What the logits may stand for."""
    needs_teacher: ClassVar[bool] = True
    """Whether it compares with a teacher; where not, it is called with None in the teacher's place."""
    reads_domains: ClassVar[bool] = False
    """Whether it asks for `in_target_domain`; evaluation on data without it leaves the term out."""
    student_layers: tuple[str, ...] = ()
    """What it reads of the student beside the logits, as names for `ModelOutput.at`."""
    teacher_layers: tuple[str, ...] = ()
    """What it reads of the teacher beside the logits, as names for `ModelOutput.at`."""

    def __init__(self) -> None:
        super().__init__()  # a signature of its own, which says that nothing is taken

    @abstractmethod
    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """Compare.

        Args:
            student: With gradient.
            teacher: Without gradient.
            batch: What both saw.

        Returns:
            0-d tensor, averaged over the batch.
        """

    def adapt(self, student: Shapes, teacher: Shapes) -> None:
        """Told once, before the optimizer is made, what a dry run has shown; nothing by default.

        Args:
            student: Shape of each of `student_layers`, without the batch dimension.
            teacher: Shape of each of `teacher_layers`.

        Raises:
            ConfigError: If the shapes do not go together.
        """

    def begin_step(self, step: int, epoch: int) -> None:
        """Told before each batch of training where training is; nothing by default.

        Args:
            step: Optimizer steps taken, 0 in the first: batches of one accumulation share it.
            epoch: Epochs completed.
        """


class LayerLoss(DistillationLoss):
    """A term that compares layers of the student with layers of the teacher, the first with the first.

    Args:
        student: Names of the student's layers, see `ModelOutput.at`.
        teacher: As many names of the teacher's.
        gather: Whether each process compares the rows of all processes, as relations between samples need.

    Raises:
        ConfigError: If the two have other lengths, or are empty.
    """

    def __init__(self, student: Sequence[str], teacher: Sequence[str], gather: bool = False) -> None:
        super().__init__()
        if not student or len(student) != len(teacher):
            raise ConfigError(
                where=f"{type(self).__name__}.student, teacher",
                found=f"{len(student)} layers of the student and {len(teacher)} of the teacher",
                expected="one or more of each, as many on both sides",
                fix="name pairs of layers, the first with the first",
            )
        self.student_layers, self.teacher_layers, self.gather = tuple(student), tuple(teacher), gather

    def pairs(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """(student's, teacher's) tensor for each pair of layers, the teacher's without gradient.

        Rows in which one of the modalities named by "features.<modality>" is absent are left out.
        """
        names = zip(self.student_layers, self.teacher_layers, strict=True)
        return [self._pair(student.at(s), teacher.at(t).detach(), (s, t), batch) for s, t in names]

    def rows(self, x: Tensor, batch: Batch) -> Tensor:
        """What belongs to the rows of the first of `pairs`: those that are there, of all processes.

        Args:
            x: "batch ...", such as the sample ids.
            batch: As for `pairs`.
        """
        kept = rows_there((self.student_layers[0], self.teacher_layers[0]), batch["present"])
        x = x if kept is None else x[kept]
        return gather_rows(x) if self.gather else x

    def _pair(self, s: Tensor, t: Tensor, names: tuple[str, str], batch: Batch) -> tuple[Tensor, Tensor]:
        kept = rows_there(names, batch["present"])
        if kept is not None:
            s, t = s[kept], t[kept]
        return (gather_rows(s), gather_rows(t)) if self.gather else (s, t)


class Adapted(DistillationLoss):
    """A term with adaptors whose sizes follow from the layers it reads.

    `adapt` is called once with the shapes seen in a dry run, before the optimizer is made. The shapes are
    part of the state dict, so that a checkpoint alone is enough to rebuild the adaptors.
    """

    _shapes: tuple[Shapes, Shapes] | None = None

    @abstractmethod
    def build(self, student: Shapes, teacher: Shapes) -> None:
        """Make the adaptors as sub-modules or parameters.

        Args:
            student: Shape of each of `student_layers`, without the batch dimension.
            teacher: Shape of each of `teacher_layers`.

        Raises:
            ConfigError: If the shapes do not go together.
        """

    @property
    def adapted(self) -> bool:
        """Whether the adaptors are there."""
        return self._shapes is not None

    def adapt(self, student: Shapes, teacher: Shapes) -> None:
        """Make the adaptors, unless they are there."""
        if self._shapes is None:
            self.build(student, teacher)
            self._shapes = (student, teacher)

    def get_extra_state(self) -> list[list[list[int]]]:
        """The shapes the adaptors were made for; empty before."""
        return [[list(shape) for shape in side] for side in self._shapes or ()]

    def set_extra_state(self, state: Any) -> None:
        """Nothing: the shapes are read before the parameters."""

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Parameters can only be loaded into adaptors that exist.
        shapes = state_dict.get(f"{prefix}_extra_state")
        if shapes:
            student, teacher = (tuple(tuple(shape) for shape in side) for side in shapes)
            self.adapt(student, teacher)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)  # type: ignore[arg-type]


class AdaptedLoss(LayerLoss, Adapted):
    """A term with adaptors between layers of the student and layers of the teacher."""


class MapLoss(LayerLoss):
    """A term that compares feature maps, pair by pair.

    Args:
        student: Names of the student's layers, see `ModelOutput.at`.
        teacher: As many of the teacher's.
        student_grid: Where the student's tokens lie, if its layers are tokens.
        teacher_grid: Where the teacher's do.
    """

    def __init__(
        self,
        student: list[str],
        teacher: list[str],
        student_grid: TokenGrid | None = None,
        teacher_grid: TokenGrid | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.student_grid, self.teacher_grid = student_grid, teacher_grid

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The term for one pair of maps "batch channels height width": 0-d tensor."""

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """The sum over the pairs, 0-d tensor."""
        values = [
            self.compare(as_map(s, self.student_grid), as_map(t, self.teacher_grid))
            for s, t in self.pairs(student, teacher, batch)
        ]
        return torch.stack(values).sum()


class ProjectedLoss(AdaptedLoss):
    """A term between trained linear projections of one vector a side.

    Args:
        student: Name of the student's layer, a vector a sample; see `ModelOutput.at`.
        teacher: Name of the teacher's.
        dim: Width of the projections.
        gather: As for `LayerLoss`.
    """

    def __init__(self, student: str, teacher: str, dim: int, gather: bool) -> None:
        super().__init__([student], [teacher], gather)
        self.dim = dim

    def build(self, student: Shapes, teacher: Shapes) -> None:
        """One linear projection a side."""
        (s,), (t,) = student, teacher
        if len(s) != 1 or len(t) != 1:
            raise ConfigError(
                where=type(self).__name__,
                found=f"layers of shape {s} and {t}",
                expected="one vector a sample on both sides",
                fix="name pooled layers, such as features.<modality> or embedding",
            )
        self.student_projection = nn.Linear(s[0], self.dim)
        self.teacher_projection = nn.Linear(t[0], self.dim)

    def projected(
        self, student: ModelOutput, teacher: ModelOutput, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The student's and the teacher's projection "batch dim", and the ids of their samples."""
        ((s, t),) = self.pairs(student, teacher, batch)
        ids = self.rows(batch["sample_id"], batch)
        return self.student_projection(s), self.teacher_projection(t), ids


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, in order of rank, with gradient; `x` itself where there is one process.

    Each process then computes the whole loss, and the gradient DDP averages is that of one process with the
    whole batch. Processes may hold different numbers of rows, as in evaluation; all must call it.
    """
    if alone():
        return x
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, counts[0].new_tensor([len(x)]))
    sizes = torch.cat(counts).tolist()
    # All pieces must be of one size, or the exchange aborts the process, or leaves numbers from nowhere.
    padded = torch.cat([x, x.new_zeros(max(sizes) - len(x), *x.shape[1:])])
    pieces = dist_nn.all_gather(padded)  # type: ignore[no-untyped-call]
    return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])


def rows_there(names: Sequence[str], present: Mapping[str, Tensor]) -> Tensor | None:
    """Rows that have all modalities named by "features.<modality>": bool "batch"; None where none is named.

    Args:
        names: As `ModelOutput.at` takes them.
        present: modality -> bool "batch".
    """
    modalities = {name.removeprefix("features.") for name in names if name.startswith("features.")}
    there = [present[m] for m in modalities if m in present]
    return torch.stack(there).all(dim=0) if there else None
